"""`generate`, `chat` and `evaluate` on a model just made."""

import json
import os
import select
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = "runs/tiny/model"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(autouse=True)
def _model(tiny_run):
    """Every test here uses the model."""


def _json(done):
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def test_generate_writes_the_new_text_alone(shell):
    command = f'lilliput generate {MODEL} --prompt "import " --max-new 40 --seed 5'
    plain, answer = shell(command), _json(shell(f"{command} --json"))
    assert plain.stdout == answer["text"]
    assert plain.stderr == ""
    assert answer["prompt"] == "import "
    assert 0 < answer["new_tokens"] <= 40
    assert answer["ended"] in ("eos", "length")
    assert Path(answer["model"]).is_absolute()


def test_a_seed_decides_the_text(call):
    texts = [call(f"lilliput generate {MODEL} --max-new 30 --seed {seed}").stdout for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_greedy_text_is_that_of_transformers(shell, call):
    transformers = pytest.importorskip("transformers")
    path = shell.folder / MODEL
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    prompt = tokenizer("def main(", return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=30, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    theirs = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    ours = call(f'lilliput generate {MODEL} --prompt "def main(" --max-new 30 --temperature 0')
    assert ours.stdout == theirs


def test_stdout_is_valid_utf8_whatever_the_model_writes(shell):
    command = [sys.executable, "-m", "lilliput.cli.main", "generate", MODEL, "--temperature", "100"]
    for seed in range(2):
        done = subprocess.run(
            [*command, "--max-new", "200", "--seed", str(seed), "--prompt", "größe ☃"],
            cwd=shell.folder, capture_output=True, check=True,
        )  # fmt: skip
        assert done.stdout.decode("utf-8")


def test_stop_ends_before_its_text(call):
    whole = call(f"lilliput generate {MODEL} --max-new 60 --seed 5").stdout
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    answer = _json(call(f"lilliput generate {MODEL} --max-new 60 --seed 5 --json --stop {shlex.quote(stop)}"))
    assert answer["ended"] == "stop"
    assert answer["text"] == whole[: whole.index(stop)]


def test_the_prompt_may_come_from_stdin_and_be_too_long_or_no_utf8(call, shell):
    answer = _json(call(f"lilliput generate {MODEL} --prompt - --max-new 5 --json", stdin="import os\n"))
    assert answer["prompt"] == "import os\n"
    long = call(f"lilliput generate {MODEL} --prompt - --max-new 5 --json", stdin="word " * 3000)
    assert _json(long)["new_tokens"] == 5
    assert "only its end is used" in long.stderr
    odd = shell(f"lilliput generate {MODEL} --prompt $'\\xff' --max-new 5 --json")
    assert _json(odd)["prompt"] == "\ufffd"
    assert "not UTF-8" in odd.stderr


def test_a_reader_that_leaves_is_no_error(shell):
    done = shell(f"set -o pipefail; lilliput generate {MODEL} --max-new 200 | head -c 1")
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_runs_folder_stands_for_its_model(call):
    assert _json(call("lilliput generate runs/tiny --max-new 3 --json"))["model"].endswith("runs/tiny/model")


def test_chat_without_a_template_continues_and_says_so(call):
    command = f"lilliput chat {MODEL} --max-new 10"
    plain = call(command, stdin="The module\n\nimport\n")
    assert plain.returncode == 0
    assert "no chat template" in plain.stderr
    answer = _json(call(f"{command} --json", stdin="The module\n\nimport\n"))
    assert answer["template"] is False
    assert [turn["prompt"] for turn in answer["turns"]] == ["The module", "import"]
    assert plain.stdout == "".join(f"{turn['text']}\n" for turn in answer["turns"])


def _until(terminal, sign):
    seen = b""
    while sign not in seen:
        assert select.select([terminal], [], [], 60)[0], seen
        seen += os.read(terminal, 4096)
    return seen.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals")
def test_in_a_terminal_ctrl_c_ends_the_reply_and_ctrl_d_the_talk(shell):
    import pty

    child, terminal = pty.fork()
    if child == 0:
        os.chdir(shell.folder)
        words = [sys.executable, "-m", "lilliput.cli.main", "chat", MODEL, "--max-new", "1000000"]
        words += ["--temperature", "0"]
        os.execv(sys.executable, words)
    _until(terminal, b"> ")
    os.write(terminal, b"The module\n")
    _until(terminal, b"module\r\n")
    _until(terminal, b" ")
    os.write(terminal, b"\x03")
    _until(terminal, b"\n> ")
    os.write(terminal, b"\x04")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(terminal)


@pytest.fixture
def chat_model(shell, tmp_path):
    """The same model with a chat template, so named in its tokenizer's configuration."""
    folder = tmp_path / "chatty"
    shutil.copytree(shell.folder / MODEL, folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": TEMPLATE}))
    return folder


def test_chat_with_a_template_takes_turns(call, chat_model):
    done = call(f"lilliput chat {chat_model} --max-new 10 --json", stdin="Hello\nAgain\n")
    answer = _json(done)
    assert answer["template"] is True
    assert "has a chat template" in done.stderr
    assert len(answer["turns"]) == 2
    # The first reply is what `generate` writes after the same rendered turns.
    rendered = "<user>Hello\n<assistant>"
    same = _json(call(f"lilliput generate {MODEL} --prompt - --max-new 10 --json", stdin=rendered))
    assert answer["turns"][0]["text"] == same["text"]


def test_what_a_person_types_is_never_a_special_token(chat_model):
    from lilliput.cli.conversation import open_conversation
    from lilliput.cli.writer import Sampling, Writer

    writer = Writer(chat_model)
    conversation = open_conversation(writer, Sampling(1, 1.0, None, None, 0, ()))
    bos, eos = writer.tokenizer.bos_id, writer.tokenizer.eos_id
    typed = (
        writer.tokenizer.decode([eos]) or json.loads((chat_model / "tokenizer_config.json").read_text())["eos_token"]
    )
    ids = conversation.ids(f"before {typed} after")
    assert ids.count(bos) == 1
    assert ids[0] == bos
    assert eos not in ids[1:]
    assert typed in writer.tokenizer.decode(ids)


def test_a_long_talk_drops_its_beginning(chat_model, capsys):
    from lilliput.cli.conversation import open_conversation
    from lilliput.cli.writer import Sampling, Writer

    writer = Writer(chat_model)
    conversation = open_conversation(writer, Sampling(1, 1.0, None, None, 0, ()))
    for turn in range(30):
        assert len(conversation.ids(f"turn {turn} of a long talk")) < writer.context
        conversation.remember(f"turn {turn} of a long talk", "a reply")
    assert "its beginning is dropped" in capsys.readouterr().err


def test_a_template_that_cannot_be_used_is_named(call, chat_model):
    for template, words in (("{% for %}", "chat template"), ("{{ raise_exception('no system turn') }}", "no system")):
        (chat_model / "chat_template.jinja").write_text(template)
        done = call(f"lilliput chat {chat_model} --json", stdin="Hello\n")
        assert done.returncode == 2
        assert words in json.loads(done.stdout)["error"]["message"]


def test_evaluate_gives_bits_per_byte_and_its_interval(call):
    answer = _json(call(f"lilliput evaluate {MODEL} --text dev.jsonl --json"))
    bits = answer["bits_per_byte"]
    assert set(bits) == {"value", "low", "high"}
    assert bits["low"] <= bits["value"] <= bits["high"]
    assert answer["tasks"] == {}
    assert answer["documents"] == 40
    assert Path(answer["model"]).is_absolute()
    plain = call(f"lilliput evaluate {MODEL} --text dev.jsonl --quiet")
    assert f"{bits['value']:.4f}" in plain.stdout
    assert plain.stderr == ""


def test_evaluate_takes_several_files_and_single_documents(call):
    one = _json(call(f"lilliput evaluate {MODEL} --text my_texts/json.txt --json"))
    assert one["documents"] == 1
    assert one["bits_per_byte"]["low"] is None
    both = _json(call(f"lilliput evaluate {MODEL} --text my_texts/json.txt my_texts/textwrap.txt --json"))
    repeated = _json(call(f"lilliput evaluate {MODEL} --text my_texts/json.txt --text my_texts/textwrap.txt --json"))
    assert both["documents"] == 2
    assert both["bits_per_byte"] == repeated["bits_per_byte"]
