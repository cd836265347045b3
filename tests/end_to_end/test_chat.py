"""`tutti chat` on a pseudo-terminal: streaming, history, editing keys, Ctrl-C, Ctrl-D."""

import json
import time

import pytest
from user import Terminal, jsonl, tutti

LENGTH = 14


@pytest.fixture
def chat():
    terminals = []

    def start(*options):
        terminal = Terminal("chat", "-m", "smollm2", "--temp", 0, "-n", LENGTH, *options)
        terminals.append(terminal)
        prompt(terminal)
        return terminal

    yield start
    for terminal in terminals:
        terminal.close()


def prompt(terminal):
    before = terminal.expect(r"> $")
    time.sleep(0.3)  # the terminal is set for editing after the prompt is shown
    return before


def saved(terminal, path):
    terminal.send(f"/save {path}\r")
    terminal.expect("messages written")
    prompt(terminal)
    return json.loads(path.read_text())


def user(text):
    return {"role": "user", "content": text}


def answers_of(tmp_path, *conversations):
    path = jsonl(tmp_path / "c.jsonl", [{"messages": c} for c in conversations])
    return [a["text"] for a in tutti("run", "-m", "smollm2", "--prompts", path, "-n", LENGTH).lines()]


def test_a_conversation(chat, tmp_path):
    terminal = chat()
    terminal.send("My name is Ada.\r")
    first = prompt(terminal)
    terminal.send("What is my name?\r")
    second = prompt(terminal)
    messages = saved(terminal, tmp_path / "talk.json")
    assert [m["role"] for m in messages] == ["user", "assistant", "user", "assistant"]
    assert messages[0]["content"] == "My name is Ada." and messages[2]["content"] == "What is my name?"
    # Said on the screen, and the same as `run` says for the same conversation: the second turn saw the first.
    for screen, message in ((first, messages[1]), (second, messages[3])):
        assert message["content"] and message["content"] in screen.replace("\r\n", "\n")
    alone, whole, forgetful = answers_of(tmp_path, messages[:1], messages[:3], messages[2:3])
    assert (messages[1]["content"], messages[3]["content"]) == (alone, whole)
    assert whole != forgetful

    terminal.send("/stats\r")
    assert "cached" in prompt(terminal)
    terminal.send("/reset\r")
    prompt(terminal)
    assert saved(terminal, tmp_path / "empty.json") == []
    terminal.send("/system Answer in French.\r")
    prompt(terminal)
    assert saved(terminal, tmp_path / "system.json") == [{"role": "system", "content": "Answer in French."}]
    terminal.send("/help\r")
    assert "/reset" in prompt(terminal)
    terminal.send("/quit\r")
    assert terminal.wait() == 0


def test_editing_history_and_control_keys(chat, tmp_path):
    terminal = chat("-sys", "Be brief.")
    terminal.send("rubbish")
    terminal.expect("rubbish")
    terminal.send("\x03")  # clears the line
    prompt(terminal)
    terminal.send("hxi\x1b[D\x7f\x01oh \x05 \u00e9\u00e8\x7f\r")  # left, backspace; home; end; half of two accents
    prompt(terminal)
    terminal.send("\x1b[A\x7f!\r")  # the last line again, changed
    prompt(terminal)
    terminal.send("one \\\rtwo\r")  # a line that goes on
    terminal.expect(r"\| ")
    prompt(terminal)
    terminal.send("\r")  # an empty line is nothing
    prompt(terminal)
    messages = saved(terminal, tmp_path / "edited.json")
    assert messages[0] == {"role": "system", "content": "Be brief."}
    assert [m["content"] for m in messages[1::2]] == ["oh hi \u00e9", "oh hi !", "one \ntwo"]
    terminal.send("\x04")
    assert terminal.wait() == 0


def test_control_c_stops_the_answer_and_not_the_program(chat, tmp_path):
    terminal = chat("-n", 4000, "--ignore-eos")
    terminal.send("Count to one thousand, please.\r")
    terminal.expect("please.*\n.*\\w{2}")  # it has begun to stream
    terminal.send("\x03")
    terminal.expect(r"\[stopped\]", 20)
    prompt(terminal)
    terminal.send("Again.\r")
    terminal.expect("Again.*\n.*\\w{2}")
    terminal.send("\x03")
    terminal.expect(r"\[stopped\]", 20)
    prompt(terminal)
    messages = saved(terminal, tmp_path / "stopped.json")
    assert [m["role"] for m in messages] == ["user", "assistant", "user", "assistant"]
    assert messages[1]["content"] and len(messages[1]["content"]) < 4000
    # What was not said is not part of the conversation, and a Ctrl-C at the prompt does not stop the next answer.
    terminal.send("\x03")
    prompt(terminal)
    terminal.send("\x04")
    assert terminal.wait() == 0


def test_lines_from_a_pipe(tmp_path):
    done = tutti("chat", "-m", "smollm2", "--temp", 0, "-n", LENGTH, input="My name is Ada.\nWhat is my name?\n")
    assert done.code == 0 and done.err == ""
    first, = answers_of(tmp_path, [user("My name is Ada.")])
    second, = answers_of(tmp_path, [user("My name is Ada."), {"role": "assistant", "content": first},
                                    user("What is my name?")])
    assert done.out == f"{first}\n{second}\n"


def test_a_base_model_cannot_chat():
    done = tutti("chat", "-m", "gemma3-270m", input="hi\n")
    assert done.code == 1 and done.out == "" and "no chat template" in done.err and "tutti run --raw" in done.err


def test_a_conversation_that_no_longer_fits_can_go_on():
    done = tutti("chat", "-m", "smollm2", "--temp", 0, "-n", 4, "-c", 60, input="word " * 80 + "\nhi\n")
    assert done.code == 0
    assert "do not fit the context of 60" in done.err and "/reset" in done.err
    assert done.out.strip()  # the second message was answered
