"""Prompt files: what they say is obeyed, what cannot be read is refused with its line."""

from hashlib import sha256
from pathlib import Path

import pytest

from unlearn_audit.errors import DataError
from unlearn_audit.generation.prompts import Prompt, read_prompts


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prompts.csv"


def test_a_column_of_prompts_is_enough(file: Path) -> None:
    file.write_bytes(b'prompt\na house\n\n"a tree, and\nits shadow"\n')
    found = read_prompts(file)
    assert found.prompts == (Prompt("a house", 0), Prompt("a tree, and\nits shadow", 1))
    assert found.sha256 == sha256(file.read_bytes()).hexdigest()
    assert (found.obeyed, found.passed_over) == ((), ())


def test_the_columns_of_i2p_are_obeyed_and_the_rest_named(file: Path) -> None:
    file.write_text(
        "\ufeff,prompt,categories,evaluation_seed,evaluation_guidance,sd_image_width,sd_image_height,case_number\r\n"
        '0,"padmé, oil",shocking,2719403842,7,512.0,768,17\r\n'
        "1,a street,violence,,7.5,,,3\r\n"
    )
    found = read_prompts(file)
    assert found.prompts == (
        Prompt("padmé, oil", 17, seed=2719403842, guidance=7.0, width=512, height=768),
        Prompt("a street", 3, guidance=7.5),
    )
    assert set(found.obeyed) == {
        "evaluation_seed",
        "evaluation_guidance",
        "sd_image_width",
        "sd_image_height",
        "case_number",
    }
    assert found.passed_over == ("column 1", "categories")


def test_the_other_names_of_seed_and_guidance_count_where_the_first_are_not_there(file: Path) -> None:
    file.write_text("prompt,sd_seed,sd_guidance_scale\nx,5,3\n")
    assert read_prompts(file).prompts == (Prompt("x", 0, seed=5, guidance=3.0),)
    file.write_text("prompt,sd_seed,evaluation_seed\nx,5,6\n")
    found = read_prompts(file)
    assert found.prompts[0].seed == 6
    assert found.passed_over == ("sd_seed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text\nx\n", "no column 'prompt'; its first line has text"),
        (b"prompt\n", "no prompt under it"),
        (b"prompt,prompt\nx,y\n", "two columns"),
        (b"prompt,case_number\nx\n", "line 2: 1 fields where the header has 2"),
        (b"prompt\nx\n \n", "line 3: the prompt is empty"),
        (b"prompt\n\xff\xfe\n", "not text in UTF-8"),
        (b'prompt\n"x" y\n', "line 2:"),
        (b'prompt\n"x\n', "line 2:"),
        (b"prompt,evaluation_seed\nx,1.5\n", "evaluation_seed is '1.5'"),
        (b"prompt,evaluation_seed\nx,-1\n", "a whole number from 0"),
        (b"prompt,evaluation_seed\nx,99999999999999999999\n", "evaluation_seed"),
        (b"prompt,sd_image_width\nx,4\n", "from 8 to 8192"),
        (b"prompt,sd_image_width\nx,64\n", "line 2: it names a width or a height without the other"),
        (b"prompt,sd_image_width,sd_image_height\nx,,64\n", "name both or neither"),
        (b"prompt,evaluation_guidance\nx,nan\n", "evaluation_guidance is 'nan'"),
        (b"prompt,evaluation_guidance\nx,inf\n", "evaluation_guidance is 'inf'"),
        (b"prompt,evaluation_guidance\nx,strong\n", "a number from 0 to 1000"),
        (b"prompt,case_number\nx,4\ny,4\n", "case number 4 comes twice"),
        (b"prompt,case_number\nx,\ny,0\n", "case number 0 comes twice"),
        (b"prompt\n" + b"x" * 10_001 + b"\n", "10,001 characters"),
        (b"", "empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_line(content: bytes, message: str, file: Path) -> None:
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_prompts(file)


def test_a_file_that_is_not_there_is_said_to_be_missing(file: Path) -> None:
    with pytest.raises(DataError, match="prompt file not found"):
        read_prompts(file)
