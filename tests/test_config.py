"""A config says what is wrong and where, and comes back from its own manifest."""

from pathlib import Path

import pytest

from saefeat.config import BuildConfig, LabelConfig, ReadoutConfig, TrainConfig, from_dict, load_config, to_dict
from saefeat.errors import InputError


def test_a_config_is_its_own_manifest() -> None:
    config = BuildConfig(
        name="x", label=LabelConfig(readouts=(ReadoutConfig(name="felt", pool="last", continuation="!"),))
    )
    assert from_dict(BuildConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("nome = 'x'", "unknown setting 'nome'; did you mean 'name'"),
        ("[train]\nfeatures = 'many'", "train.features is 'many', a value of type int was expected"),
        ("[train]\nk = 0", "k must lie between 1 and features"),
        ("[train]\narchitecture = 'vanilla'", "use one of batchtopk, matryoshka"),
        ("[harvest]\nlayers = 3", "a list was expected"),
        ("[harvest]\nlayers = [3, 3]", "named twice"),
        ("[train", "not readable TOML"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, toml: str, message: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(toml)
    with pytest.raises(InputError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_matryoshka_widths_rise_to_the_full_width() -> None:
    with pytest.raises(InputError, match="must rise and end at features"):
        TrainConfig(architecture="matryoshka", features=64, k=4, matryoshka_widths=(32, 16, 64))
