"""The section `generation`: files start at the config's folder, words stay, and what is not there is told at once."""

from pathlib import Path

import pytest

from unlearn_audit.config import check_config, file_layer
from unlearn_audit.errors import ConfigError


def settings(path: Path, text: str) -> dict[str, object]:
    path.write_text(f"[generation]\n{text}\n")
    found: dict[str, object] = file_layer(path, origin="config").values["generation"]
    return found


def test_files_start_at_the_folder_of_the_config_and_words_stay(tmp_path: Path) -> None:
    found = settings(
        tmp_path / "c.toml",
        'judge = "judge.safetensors"\nprompts = "p.csv"\nfeatures = "inception:w.pth"\nreal = "folder:images"',
    )
    assert found == {
        "judge": f"{tmp_path}/judge.safetensors",
        "prompts": f"{tmp_path}/p.csv",
        "features": f"inception:{tmp_path}/w.pth",
        "real": f"folder:{tmp_path}/images",
    }


@pytest.mark.parametrize("judge", ["train", "nudenet", "mine.judges:nice"])
def test_a_judge_that_is_no_file_stays(tmp_path: Path, judge: str) -> None:
    assert settings(tmp_path / "c.toml", f'judge = "{judge}"\nfeatures = "judge"') == {
        "judge": judge,
        "features": "judge",
    }


def test_a_judge_may_be_a_folder_and_never_inception(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    path = tmp_path / "c.toml"
    for judge, said in (("judge", None), ("inception:w.pth", "name it with --features")):
        path.write_text(
            f'forget = "class:3"\n[[train]]\nlabel = "o"\nmodel = "tiny-unet"\n[generation]\njudge = "{judge}"\n'
        )
        if said is None:
            assert check_config(path).generation is not None
        else:
            with pytest.raises(ConfigError, match=said) as refusal:
                check_config(path)
            assert "no such file" not in str(refusal.value)


def test_files_that_are_not_there_and_numbers_out_of_range_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        'forget = "class:3"\n[generation]\njudge = "j.pt"\nprompts = "p.csv"\nsamples = 1\nsampler = "pndm"\n'
    )
    with pytest.raises(ConfigError) as refusal:
        check_config(path)
    told = "\n".join(refusal.value.problems)
    for part in (f"generation.judge: no such file: {tmp_path}/j.pt", "generation.prompts", "samples", "sampler"):
        assert part in told
