"""The metrics of the section `outputs`: answers, features and whole populations against retrained models'."""

from unlearn_audit.catalogue.metric import COMPARE, DOWN, UP, MetricInfo

ANSWERS, ANSWERS_TEST = "its answers on the forget set", "its answers on test examples of forgotten classes"
_FORGET, _TEST = ("forget",), ("test",)
_OF_POPULATION = "the same for all models of a population, of which it speaks"


# Ending of a metric's name -> title, unit, digits, what it is.
_DIVERGENCES = {
    "js": ("JS", "nats", 4, "Jensen-Shannon divergence of its answers and a retrained model's, mean over examples"),
    "kl": ("KL", "nats", 3, "KL divergence of a retrained model's answers from its own, mean over examples"),
    "tv": ("total variation", "fraction", 3, "total variation between its answers and a retrained model's"),
    "l2": ("L2 distance", "probability", 3, "Euclidean distance of its probabilities and a retrained model's"),
    "agreement": ("agreement", "fraction", 3, "share of examples that it and a retrained model put in one class"),
}
DIVERGENCES = tuple(_DIVERGENCES)

OUTPUT_METRICS: tuple[MetricInfo, ...] = (
    *(
        MetricInfo(f"outputs.{name}", f"{title} to retrained", "outputs", unit, COMPARE, digits,
                   f"{what}, on the forget set", leak=True, form_of=ANSWERS, sets=_FORGET)
        for name, (title, unit, digits, what) in _DIVERGENCES.items()
    ),
    *(
        MetricInfo(f"outputs.{name}.class_test", f"{title} on class test", "outputs", unit, COMPARE, digits,
                   f"{what}, on test examples of the forgotten classes", form_of=ANSWERS_TEST, sets=_TEST)
        for name, (title, unit, digits, what) in _DIVERGENCES.items()
    ),
    MetricInfo("outputs.zrf", "ZRF", "outputs", "fraction", COMPARE, 3,
               "1 minus the Jensen-Shannon divergence to a randomly initialised network over ln 2, on the forget set",
               sets=_FORGET),
    MetricInfo("outputs.tow", "ToW", "outputs", "fraction", UP, 3,
               "product of 1 - |difference to a retrained model| of forget, retain and test accuracy",
               sets=("retain", "forget", "test")),
    MetricInfo("outputs.tow_mia", "ToW-MIA", "outputs", "fraction", UP, 3,
               "as ToW, with the svc attack's efficacy instead of the forget accuracy",
               sets=("retain", "forget", "test")),
    *(
        MetricInfo(f"outputs.retention.{split}", f"retention {split}", "outputs", "ratio", COMPARE, 3,
                   f"accuracy on the {split} set over the retrained models'", sets=(split,))
        for split in ("retain", "forget", "test")
    ),
    MetricInfo("outputs.indiscernibility", "indiscernibility", "outputs", "fraction", COMPARE, 3,
               "1 - 2·|AUC - 1/2| of the loss, forget set against its unseen twin"),
    MetricInfo("outputs.kodge", "Kodge composite", "outputs", "fraction", COMPARE, 3,
               "accuracy on retain times 1 - accuracy on forget", sets=("retain", "forget")),
    MetricInfo("outputs.rte", "RTE, wall time", "outputs", "ratio", DOWN, 3,
               "recorded wall time of unlearning over that of retraining", sets=()),
    MetricInfo("outputs.rte_gradients", "RTE, gradients", "outputs", "ratio", DOWN, 3,
               "recorded gradients of single examples of unlearning over those of retraining", sets=()),
    MetricInfo("cka.original", "CKA to original", "outputs", "fraction", COMPARE, 3,
               "centred kernel alignment of features with the original's, unbiased, on the forget set",
               rests_on_original=True, sets=_FORGET),
    MetricInfo("cka.retrained", "CKA to retrained", "outputs", "fraction", COMPARE, 3,
               "centred kernel alignment of features with the retrained models', unbiased, on the forget set",
               sets=_FORGET),
    MetricInfo("probe.recall_f", "probe recall", "outputs", "fraction", COMPARE, 3,
               "share of the forgotten classes' test examples that a linear classifier of the features finds",
               form_of="the linear probe", sets=_TEST),
    MetricInfo("probe.accuracy", "probe accuracy", "outputs", "fraction", COMPARE, 3,
               "accuracy of that linear classifier on test examples of all classes",
               form_of="the linear probe of all classes", sets=_TEST),
    MetricInfo("klom.gaussian", "KLOM, Gaussian", "outputs", "nats", COMPARE, 3,
               f"divergence of the margins of unlearned models from retrained models', example by example; "
               f"{_OF_POPULATION}", sets=_FORGET),
    MetricInfo("neurips.forgetting_quality", "NeurIPS F", "outputs", "fraction", COMPARE, 3,
               f"forgetting quality of the NeurIPS 2023 challenge; {_OF_POPULATION}", sets=_FORGET),
)  # fmt: skip
