# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Our parsers against those of diffusers' scripts, and YAML files as another way to give flags."""

import json
from pathlib import Path

import pytest

from diffusers_difftune.config import (
    ClassConditionalConfig,
    ControlNetConfig,
    DiffTuningConfig,
    TextToImageConfig,
    TextToImageLoraConfig,
)
from diffusers_difftune.config.base import flags_of
from diffusers_difftune.config.checks import check_flags
from diffusers_difftune.config.parse import config_parser, parse_config
from diffusers_difftune.errors import DiffTuneError
from training_scripts.train_class_conditional_difftune import main as main_class
from training_scripts.train_controlnet_difftune import main as main_control
from training_scripts.train_text_to_image_difftune import main as main_full
from training_scripts.train_text_to_image_lora_difftune import main as main_lora


FOLDER = Path(__file__).parent / "upstream_flags"
SCRIPTS = {
    "train_text_to_image": TextToImageConfig,
    "train_text_to_image_lora": TextToImageLoraConfig,
    "train_controlnet": ControlNetConfig,
}
UPSTREAM = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
FLAGS = [(script, flag) for script in SCRIPTS for flag in UPSTREAM[script]["flags"]]


def actions(config_class: type) -> dict:
    return {action.dest: action for action in config_parser(config_class)._actions}


def parsed(config_class: type, *argv: str):
    return parse_config(config_class, [str(argument) for argument in argv])


def refusal(config_class: type, *argv: str) -> str:
    with pytest.raises(DiffTuneError) as caught:
        parsed(config_class, *argv)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


def test_upstreams_flags_are_those_of_a_named_commit():
    assert set(UPSTREAM) == set(SCRIPTS)
    for table in UPSTREAM.values():
        assert table["commit"] in table["source"] and len(table["commit"]) == 40
        assert len(table["flags"]) > 50


@pytest.mark.parametrize(("script", "flag"), FLAGS)
def test_flag_is_upstreams(script, flag):
    expected, action = UPSTREAM[script]["flags"][flag], actions(SCRIPTS[script]).get(flag)
    assert action is not None, f"{script} has --{flag}, ours does not"
    assert f"--{flag}" in action.option_strings
    assert action.default == expected["default"] and type(action.default) in (type(expected["default"]), float)
    assert action.choices == expected["choices"]
    assert action.required in (False, expected["required"])
    if expected["store_true"]:
        assert (action.nargs, action.const, action.default) == ("?", True, False)  # --flag, and --flag true for YAML
    else:
        assert action.nargs == expected["nargs"]
        assert action.type.__name__ == expected["type"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_values_arrive_as_upstream_would_have_them(script):
    """Each flag given on the command line, parsed, against the value upstream's type would make of it."""
    given = {"int": ("7", 7), "float": ("0.25", 0.25), "str": ("word", "word")}
    for flag, expected in UPSTREAM[script]["flags"].items():
        if expected["store_true"]:
            assert getattr(parsed(SCRIPTS[script], f"--{flag}"), flag) is True
        elif expected["choices"]:
            for choice in expected["choices"]:
                assert getattr(parsed(SCRIPTS[script], f"--{flag}", choice), flag) == choice
            assert flag in refusal(SCRIPTS[script], f"--{flag}", "none of them")
        elif expected["nargs"] == "+":
            assert getattr(parsed(SCRIPTS[script], f"--{flag}", "a", "b c"), flag) == ["a", "b c"]
        else:
            text, value = given[expected["type"]]
            found = getattr(parsed(SCRIPTS[script], f"--{flag}", text), flag)
            assert found == value and type(found) is type(value)
            if expected["type"] != "str":
                assert flag in refusal(SCRIPTS[script], f"--{flag}", "many")


@pytest.mark.parametrize("config_class", [*SCRIPTS.values(), ClassConditionalConfig])
def test_every_flag_has_a_help_text_and_a_group(config_class):
    parser = config_parser(config_class)
    ours = set(flags_of(DiffTuningConfig))
    for action in parser._actions:
        if action.dest != "help":
            assert action.help and len(action.help) > 10, f"--{action.dest} has no help text"
            assert len(action.help) < 200
    titles = {group.title: {a.dest for a in group._group_actions} for group in parser._action_groups}
    assert titles["Diff-Tuning"] == ours, "the flags of Diff-Tuning are a group of their own"
    assert parser.format_help()  # a stray % in a help text would fail here


def test_diff_tuning_adds_no_flag_that_upstream_has():
    names = set(flags_of(DiffTuningConfig))
    for table in UPSTREAM.values():
        assert not names & set(table["flags"])


def test_defaults_without_any_flag():
    for script, config_class in SCRIPTS.items():
        config = config_class()
        assert config == parsed(config_class), "a config made in Python and one made by the parser agree"
        for flag, expected in UPSTREAM[script]["flags"].items():
            assert getattr(config, flag) == expected["default"]
    first, second = TextToImageConfig(), TextToImageConfig()
    assert (first.source_share, first.retention_weight) == (0.2, 0.1)
    assert (first.reconsolidation_power, first.retention_power, first.coefficients) == (1.0, 1.0, "sampled")
    assert first is not second


def test_flags_of_the_class_conditional_script_are_upstreams_where_they_have_the_name():
    """diffusers has no such script; a flag of its other ones means what it means there."""
    ours, upstream = actions(ClassConditionalConfig), UPSTREAM["train_text_to_image"]["flags"]
    assert len(set(ours) & set(upstream)) > 40
    others = {"output_dir", "train_batch_size", "lr_warmup_steps", "adam_weight_decay", "resolution"}
    others |= {"tracker_project_name"}
    for name in set(ours) & set(upstream):
        action, expected = ours[name], upstream[name]
        assert action.choices == expected["choices"], name
        assert expected["store_true"] or action.type.__name__ == expected["type"], name
        assert (action.default == expected["default"]) == (name not in others), name
    config = ClassConditionalConfig()
    assert (config.class_dropout_prob, config.train_batch_size, config.learning_rate) == (0.1, 32, 1e-4)
    assert (config.lr_warmup_steps, config.adam_weight_decay, config.variance_loss) == (0, 0.0, "both")
    assert (config.bank_prompts, config.retention_prompts, config.class_embeddings) == ("classes", "empty", "keep")


@pytest.mark.parametrize("config_class", [TextToImageLoraConfig, ControlNetConfig])
def test_no_validation_images_may_be_asked_for(config_class, tmp_path):
    """diffusers' own tests do."""
    places = ["--pretrained_model_name_or_path", "m", "--train_data_dir", "d", "--output_dir", tmp_path]
    config = parsed(config_class, *places, "--report_to", "none", "--num_validation_images", 0)
    check_flags(config)
    config.num_validation_images = -1
    with pytest.raises(DiffTuneError, match="--num_validation_images is -1; it must be at least 0"):
        check_flags(config)


def test_no_abbreviations():
    """diffusers has validation_prompt in one script and validation_prompts in another."""
    assert "--validation_prompt" in refusal(TextToImageConfig, "--validation_prompt", "a cat")
    assert "--validation_prompts" in refusal(TextToImageLoraConfig, "--validation_prompts", "a cat")
    assert "--resol" in refusal(TextToImageConfig, "--resol", "64")
    assert parsed(TextToImageLoraConfig, "--validation_prompt", "a cat").validation_prompt == "a cat"
    several = parsed(ControlNetConfig, "--validation_prompt", "a cat", "a dog").validation_prompt
    assert several == ["a cat", "a dog"]


@pytest.mark.parametrize("main", [main_full, main_lora, main_control, main_class])
def test_a_mistake_is_one_line_and_an_exit_code(main, capsys):
    for argv in (["--no_such_flag"], ["--seed", "many"], ["--config", "/no/such/file.yaml"], []):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
        assert "Traceback" not in captured.err + captured.out


# YAML files


def write_yaml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_yaml_values_get_the_types_of_the_flags(tmp_path):
    path = write_yaml(
        tmp_path,
        """
        learning_rate: 1e-4          # PyYAML reads this as a string
        adam_epsilon: 1.0e-6
        noise_offset: 1
        max_train_steps: 12
        seed: 0
        center_crop: true
        random_flip: "yes"
        use_ema: false
        snr_gamma: null
        mixed_precision: "no"
        image_interpolation_mode: nearest_exact
        dataset_name: 2024
        validation_prompts: [a cat, "2", 3]
        source_share: 0.25
        """,
    )
    config = parsed(TextToImageConfig, "--config", path)
    expected = {
        "learning_rate": 1e-4,
        "adam_epsilon": 1e-6,
        "noise_offset": 1.0,
        "max_train_steps": 12,
        "seed": 0,
        "center_crop": True,
        "random_flip": True,
        "use_ema": False,
        "snr_gamma": None,
        "mixed_precision": "no",
        "image_interpolation_mode": "nearest_exact",
        "dataset_name": "2024",
        "validation_prompts": ["a cat", "2", "3"],
        "source_share": 0.25,
    }
    for name, value in expected.items():
        found = getattr(config, name)
        assert found == value and type(found) is type(value), name
    untouched = TextToImageConfig()
    for name, value in config.flags().items():
        if name not in expected:
            assert value == getattr(untouched, name)
    assert config.given == set(expected) - {"snr_gamma"}


def test_a_single_yaml_prompt_is_a_list_of_one(tmp_path):
    path = write_yaml(tmp_path, "validation_prompts: a cat, sitting\n")
    assert parsed(TextToImageConfig, "--config", path).validation_prompts == ["a cat, sitting"]


def test_the_command_line_wins_over_yaml(tmp_path):
    path = write_yaml(tmp_path, "learning_rate: 1e-4\nseed: 3\ncenter_crop: true\nvalidation_prompts: [a, b]\n")
    for argv in (
        ["--config", path, "--seed", "4", "--center_crop", "false", "--validation_prompts", "c"],
        ["--seed", "4", "--center_crop", "false", "--validation_prompts", "c", f"--config={path}"],
    ):
        config = parsed(TextToImageConfig, *argv)
        assert (config.seed, config.center_crop, config.validation_prompts) == (4, False, ["c"])
        assert config.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("argv", "text", "replaced", "kept"),
    [
        (
            "--train_data_dir d",
            "dataset_name: a\ndataset_config_name: b\n",
            ("dataset_name", "dataset_config_name"),
            (),
        ),
        ("--dataset_name d", "train_data_dir: a\ncaption_column: b\n", ("train_data_dir",), ("caption_column",)),
        ("--dataset_name d", "dataset_name: a\ndataset_config_name: b\n", ("dataset_config_name",), ()),
        ("--train_parameters x", "adapter: lora\nrank: 8\nseed: 1\n", ("adapter", "rank"), ("seed",)),
        ("--adapter bitfit", "train_parameters: x\n", ("train_parameters",), ()),
        ("--knowledge_bank d", "bank_samples: 3\nbank_steps: 4\n", ("bank_samples", "bank_steps"), ()),
        ("--objective standard", "knowledge_bank: a\nsource_share: 0.3\n", ("knowledge_bank",), ("source_share",)),
        ("--objective difftune", "knowledge_bank: a\n", (), ("knowledge_bank",)),
        ("--num_train_epochs 3", "max_train_steps: 10\n", ("max_train_steps",), ()),
        ("--validation_epochs 3", "validation_steps: 10\n", ("validation_steps",), ()),
        ("--train_data_dir d --dataset_name e", "seed: 1\n", (), ("train_data_dir", "dataset_name")),
        (
            "--dataset_name a",
            "dataset_name: a\ndataset_config_name: b\n",
            (),
            ("dataset_name", "dataset_config_name"),
        ),
        ("--seed 2", "dataset_name: a\ntrain_data_dir: b\n", (), ("dataset_name", "train_data_dir")),
    ],
)
def test_what_the_command_line_decides_replaces_what_the_file_decides_otherwise(argv, text, replaced, kept, tmp_path):
    """A recipe names a dataset, the command line a folder: without this rule the folder would not be looked at."""
    path = write_yaml(tmp_path, text)
    config, untouched = parsed(TextToImageConfig, "--config", path, *argv.split()), TextToImageConfig()
    for name in replaced:
        assert getattr(config, name) == getattr(untouched, name)
    for name in kept:
        assert getattr(config, name) != getattr(untouched, name)
    assert len(config.notes) == bool(replaced)
    for note in config.notes:
        assert note.startswith(argv) and all(f"{name}: " in note for name in replaced) and note.endswith(f"{path}.")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rte: 1e-4\n", "learning_rte"),
        ("config: other.yaml\n", "config"),
        ("validation_prompt: a cat\n", "validation_prompt"),
        ("seed: many\n", "seed"),
        ("center_crop: perhaps\n", "center_crop"),
        ("mixed_precision: fp8\n", "fp16"),
        ("seed: [1, 2]\n", "seed"),
        ("seed: {a: 1}\n", "seed"),
        ("- seed\n", "list"),
        ("seed: [1\n", "cannot be read"),
        ("learning_rate\n", "str"),
    ],
)
def test_a_bad_yaml_file_is_refused_in_one_sentence(text, said, tmp_path):
    message = refusal(TextToImageConfig, "--config", write_yaml(tmp_path, text))
    assert said in message and "run.yaml" in message


def test_an_empty_yaml_file_sets_nothing(tmp_path):
    assert parsed(TextToImageConfig, "--config", write_yaml(tmp_path, "# nothing\n")) == TextToImageConfig()


def test_missing_files_and_unreadable_ones_are_refused(tmp_path):
    assert "nowhere.yaml" in refusal(TextToImageConfig, "--config", tmp_path / "nowhere.yaml")
    (tmp_path / "image.yaml").write_bytes(b"\x89PNG\xff\xfe")
    assert "image.yaml" in refusal(TextToImageConfig, "--config", tmp_path / "image.yaml")
