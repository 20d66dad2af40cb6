"""What is said about broken recipes: every fault, all at once, each with key, place and remedy."""

import re
from pathlib import Path

import pytest

from ffds.errors import InputError
from ffds.methods.registry import METHODS
from ffds.recipes.load import load_recipe
from ffds.recipes.messages import allowed
from ffds.recipes.schema import SECTIONS, Recipe


def refusal(path, overrides=(), method=None):
    with pytest.raises(InputError) as caught:
        load_recipe(str(path), overrides, method=method)
    return str(caught.value)


def written(directory, text):
    (directory / "r.yaml").write_text(text)
    return directory / "r.yaml"


def blocks(message):
    """The errors of a joined message, one string each."""
    return re.split(r"\n(?!  )", message)


@pytest.fixture
def broken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(
        """\
name: ../../etc
data:
  name: cifar
  rot: x
  imbalance_factor: .nan
  std: [1, -2, a]
  cut: [3]
  root: 3
optimizer:
  lr: 1
  lr: .inf
  momentum: 1.0
schedule:
  epocs: 3
  epochs: 2.0
  milestones: [[0.8, 0.1], [0.5, 0.01]]
trainer: {seed: yes, lr: 2}
extra: !!python/object/apply:os.system [touch canary]
method:
  name: ce
  k: 0.5
methods:
  ffds: {gamma_min: 5, gamma_max: 3}
  ldam-drv: {}
  ib: 5
"""
    )
    return "bad.yaml"


def test_every_fault_is_named_at_once(broken):
    message = refusal(broken, ["trainer.sed=0", "nonsense", "method.gamma=3"])
    what = [block.partition("\n")[0] for block in blocks(message)]
    kinds = {
        "unknown key {}": "data.rot schedule.epocs trainer.lr trainer.sed extra method.k method.gamma",
        "unknown value of {}": "name data.name",
        "{} has the wrong type": "data.root data.std[2] trainer.seed schedule.epochs methods.ib",
        "{} is out of range": "data.std[1] optimizer.momentum",
        "{} has the wrong length": "data.cut",
        "{} is not a finite number": "data.imbalance_factor",
        "key {} is given twice": "optimizer.lr",
        "tag {} is refused": "!!python/object/apply:os.system",
    }
    expected = [kind.format(key) for kind, keys in kinds.items() for key in keys.split()]
    assert sorted(what) == sorted(
        [
            *expected,
            "schedule.milestones: milestones must rise, got [0.8, 0.5]",
            "methods.ffds.gamma_min, methods.ffds.gamma_max: gamma_min 5.0 is above gamma_max 3.0",
            "unknown method",
            "nonsense is no override",
        ]
    )
    assert "http" not in message
    assert not Path("canary").exists()


@pytest.mark.parametrize(
    "block",
    [
        "unknown key schedule.epocs\n  where:   bad.yaml:14:3\n  got:     3\n"
        f"  allowed: a section with the keys {', '.join(SECTIONS['schedule'].model_fields)}\n"
        "  fix:     did you mean epochs?",
        'unknown value of data.name\n  where:   bad.yaml:3:3\n  got:     "cifar"\n'
        "  allowed: one of digits, cifar10, cifar100, tiny-imagenet, ictext, ictext-sample, folder, parquet, "
        "manifest, python\n"
        "  fix:     did you mean cifar10?",
        "data.imbalance_factor is not a finite number\n  where:   bad.yaml:5:3\n  got:     NaN\n"
        "  allowed: a finite number, at least 1, or null",
        "data.cut has the wrong length\n  where:   bad.yaml:7:3\n  got:     [3]\n"
        "  allowed: a list of 3, each a whole number, at least 1, or null",
        'trainer.seed has the wrong type\n  where:   bad.yaml:17:11\n  got:     "yes"\n'
        "  allowed: a whole number, at least 0 and below 4294967296",
        "methods.ffds.gamma_min, methods.ffds.gamma_max: gamma_min 5.0 is above gamma_max 3.0\n"
        "  where:   bad.yaml:23:10, bad.yaml:23:24",
        "unknown key trainer.lr\n  where:   bad.yaml:17:22\n  got:     2\n"
        f"  allowed: a section with the keys {', '.join(SECTIONS['trainer'].model_fields)}\n"
        "  fix:     did you mean optimizer.lr?",
    ],
    ids=lambda block: block.partition("\n")[0],
)
def test_each_has_key_place_given_allowed_and_remedy(broken, block):
    assert block in blocks(refusal(broken))


@pytest.mark.parametrize("name", ["/etc/x", "a/b", "..", ".", "-x", "", "a\\b", "a b", "x" * 101])
def test_a_hostile_name_is_refused_with_line_and_column(name, tmp_path):
    path = written(tmp_path, f"data: {{name: digits}}\nname: '{name}'\n")
    assert f"unknown value of name\n  where:   {path}:2:1\n" in refusal(path)


def test_a_missing_section_and_a_missing_key(tmp_path):
    path = written(tmp_path, "method: {k: 1}\n")
    message = refusal(path)
    assert f"missing key data\n  where:   {path}\n  allowed: a section with the keys name, root" in message
    assert f"missing key method.name\n  where:   {path}:1:1\n  allowed: ce, fl" in message
    path = written(tmp_path, "data:\n  root: x\n")
    assert f"missing key data.name\n  where:   {path}:1:1\n  allowed: one of digits" in refusal(path)


@pytest.mark.parametrize("given", ["5", "[1]", "null", "text"])
def test_a_section_that_is_none(given):
    assert "trainer has the wrong type\n  where:   command line" in refusal("digits", [f"trainer={given}"])


@pytest.mark.parametrize("given", ["dffds", "[1]", "null", "5", "{name: dffds}"])
def test_an_unknown_method_on_the_command_line(given):
    (block,) = blocks(refusal("digits", [f"method={given}", *["method.k=0.5"] * (given == "dffds")]))
    assert block.startswith("unknown method\n  where:   command line\n")
    assert f"allowed: {', '.join(METHODS)}" in block
    assert ("did you mean d-ffds?" in block) == ("dffds" in given)


def test_an_unknown_method_of_the_file_is_named_even_when_another_is_taken(tmp_path):
    path = written(tmp_path, "data: {name: digits}\nmethod: cee\nmethods: [1]\n")
    message = refusal(path, method="fll")
    assert f'unknown method\n  where:   {path}:2:1\n  got:     "cee"' in message
    assert 'unknown method\n  where:   command line\n  got:     "fll"' in message
    assert f"methods has the wrong type\n  where:   {path}:3:1\n  got:     [1]" in message


def test_settings_of_a_method_are_validated_once_whether_it_is_taken_or_not(tmp_path):
    path = written(tmp_path, "data: {name: digits}\nmethod: {name: ffds, k: 7}\nmethods: {ib: {alpha: 0}}\n")
    for method in ("ce", "ffds", "ib"):
        faults = [block.partition("\n")[0] for block in blocks(refusal(path, method=method))]
        assert faults == ["methods.ib.alpha is out of range", "method.k is out of range"]


@pytest.mark.parametrize("method", METHODS)
def test_settings_of_other_methods_say_whose_they_are(method):
    own = METHODS[method].model_fields
    others = {name for settings in METHODS.values() for name in settings.model_fields} - set(own)
    half = len(others) // 2  # a refusal names so many at most
    some, rest = sorted(others)[:half], sorted(others)[half:]
    messages = [
        refusal("digits", [f"method.{name}=0.5" for name in one], method=method) for one in (some, rest)
    ]
    assert sum(len(blocks(message)) for message in messages) == len(others)
    message = "".join(messages)
    for name in others:
        owners = ", ".join(m for m, settings in METHODS.items() if name in settings.model_fields)
        assert f"{name} is a setting of {owners}" in message


def test_all_disagreements_are_named_and_placed_at_the_fields_that_were_written():
    steps = "[pad-crop, resized-crop, pad-crop, randaugment, trivialaugment]"
    data = [f"data.augment={steps}", "data.eval_resize=8", "data.std=[1]"]
    message = refusal("cifar10-lt-10", [*data, "method.gamma_min=5", "model.pretrained=true"])
    assert len(blocks(message)) == 7
    assert "augment takes one policy: randaugment or trivialaugment" in message
    words = "method.gamma_min, methods.d-ffds.gamma_max: gamma_min 5.0 is above gamma_max 4.5"
    assert f"{words}\n  where:   command line, cifar10-lt-10.yaml:48:5" in message
    assert "data.mean, data.std: mean has 3 channels and std 1\n" in message
    assert "pretrained weights exist for timm/NAME only, not for resnet32" in message


@pytest.mark.parametrize("method", ["ldam-drw", "ib", "ib-cb", "ib-fl", "d-ffds"])
def test_a_deferred_method_needs_two_epochs(method):
    message = refusal("digits", ["schedule.epochs=1"], method=method)
    assert f"method {method} has two phases: set schedule.epochs to 2 or more" in message
    assert load_recipe("digits", ["schedule.epochs=2"], method=method).recipe.schedule.epochs == 2


@pytest.mark.parametrize("method", ["ldam", "ldam-drw"])
def test_ldam_on_a_linear_head_is_refused(method):
    words = f"method {method} diverges on a linear head: set model.head to auto or cosine"
    assert f"{words}\n  where:   command line" in refusal("digits", ["model.head=linear"], method=method)


def test_a_syntax_error_does_not_hide_the_command_lines(tmp_path):
    message = refusal(written(tmp_path, "a: 1\nb: [1\n"), ["nonsense"])
    assert re.search(r"(?s)not valid YAML.*nonsense is no override", message)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("".join(f"key{i}: {i}\n" for i in range(9000)), "unknown key key7\n"),
        ("key: 1\n" * 9000, "key key is given twice"),
        ("".join(f"key{i}: !!python/object:os.system x\n" for i in range(9000)), "tag !!python/object:os"),
        ("".join(f"key{i}: \n" for i in range(9000)) + "name: [\n", "not valid YAML"),
        (f"? {'k' * 900_000}\n: 1\n", "unknown key kkk"),
        (f"name: {'v' * 900_000}\n", "unknown value of name"),
        (f"method: {'v' * 900_000}\n", "unknown method"),
        (f"data: {{name: digits, root: [{'x, ' * 9000}]}}", "wrong type"),
    ],
    ids=["keys", "duplicates", "tags", "syntax", "key", "value", "method", "list"],
)
def test_a_message_is_short_however_much_is_wrong(text, words, tmp_path):
    message = refusal(written(tmp_path, text))
    assert words in message
    assert len(message) < 20_000
    assert (re.search(r"\nand 8,97\d more errors$|\nand 17,97\d more", message) is None) == (
        text.count("\n") < 9000 or "[" in text
    )


def test_overrides_are_counted_as_keys_of_a_file_are():
    message = refusal("digits", [f"key{i}=1" for i in range(50)])
    assert message.endswith("\nand 20 more errors")


def test_a_root_that_no_path_can_name_is_found_in_the_recipe(tmp_path):
    path = written(tmp_path, 'data: {name: folder, root: "a\\0b"}\n')
    message = refusal(path)
    assert f"unknown value of data.root\n  where:   {path}:1:22\n" in message
    assert "without NUL" in message


def test_a_key_of_many_parts_is_refused_before_it_is_built():
    message = refusal("digits", [f"{'a.' * 500}a=1"])
    assert message.startswith("a key has too many parts\n  where:   command line\n  got:     501 parts")


@pytest.mark.parametrize(
    "setting",
    [
        *("data.padding", "data.image_size", "data.eval_resize", "trainer.batch_size"),
        *("schedule.epochs", "schedule.warmup", "trainer.devices", "trainer.num_nodes"),
    ],
)
def test_sizes_that_no_machine_has_are_out_of_range(setting):
    message = refusal("digits", [f"{setting}=20000000"])
    assert re.match(rf"{setting} is out of range\n.*\n.*20000000\n  allowed: .* at most \d+", message)


def test_long_values_are_cut_and_control_characters_shown():
    message = refusal("digits", [f"data.profile={'x' * 5000}", 'data.name="\\e[2J"'])
    assert len(message) < 1500
    assert "\x1b" not in message


STEPS = ["pad-crop", "resized-crop", "hflip", "vflip", "randaugment", "trivialaugment"]
STEPS += ["autoaugment-cifar", "autoaugment-imagenet", "color-jitter", "grayscale", "cutout"]
STEPS += ["random-erasing"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("data", "root"), "text (in quotes if it looks like a number), without NUL, or null"),
        (("data", "mean"), "a list of 1 to 3, each a finite number"),
        (("data", "augment"), f"a list, each one of {', '.join(STEPS)}"),
        (
            ("schedule", "milestones", 3),
            "a list [a finite number, above 0 and below 1; a finite number, above 0]",
        ),
        (("model", "name"), "resnet8, resnet20, resnet32, resnet44, resnet56 or timm/NAME"),
    ],
)
def test_the_words_for_each_kind_of_setting(path, words):
    assert allowed(SECTIONS[path[0]], path[1:]) == words


@pytest.mark.parametrize("section", [Recipe, *SECTIONS.values(), *METHODS.values()])
def test_every_setting_has_words(section):
    for name in section.model_fields:
        assert (section, name) == (Recipe, "method") or "{" not in (allowed(section, (name,)) or "{")


@pytest.mark.parametrize(
    ("value", "fault"),
    [("-1", "is out of range"), *((value, "has the wrong type") for value in ("null", "some", "[1]"))],
)
def test_a_value_of_several_types_has_one_fault(value, fault):
    key, allowed = "schedule.frozen_epochs", "a whole number, at least 0 and at most 1000000, or all"
    with pytest.raises(InputError) as refused:
        load_recipe("digits", [f"{key}={value}"])
    first, *rest = str(refused.value).splitlines()
    assert (first, rest[-1]) == (f"{key} {fault}", f"  allowed: {allowed}")
