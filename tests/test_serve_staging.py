"""What the stage shows: stage.yaml, recordings, the page's files, and the server that replays."""

from __future__ import annotations

import csv
import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from actune.demo import QUESTIONS, example
from actune.errors import UserError
from actune.script.catalogue import split_names
from actune.serve.playback import build_replay
from actune.serve.recording import read_recording
from actune.serve.replay import SHIPPED
from actune.serve.staging import STAGE, drawn, read_staging
from stage_tools import act, ask, done, running, text, write_recording


def look(staging, name):
    """As the page's lookup.js does."""
    if name in staging.mapping["actions"]:
        return staging.mapping["actions"][name]
    for rule in staging.mapping["rules"]:
        for pattern in rule["match"]:
            if re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL):
                return rule
    return None


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_every_action_of_the_examples_and_the_demo_has_a_picture(lang):
    with example(f"actions_{lang}.csv").open(encoding="utf-8-sig", newline="") as file:
        names = {name for row in list(csv.reader(file))[1:] for name in split_names(row[0])}
    names |= {name for _, offered in QUESTIONS[lang] for name in offered}
    staging = read_staging()
    assert len(names) > 100
    assert [name for name in sorted(names) if look(staging, name) is None] == []


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("换衣服-围裙", "set", {"wear": "apron", "cloth": "#e4572e"}),
        ("换衣服-裙子", "set", {"wear": "dress", "cloth": "#d8437f"}),
        ("wear-swimsuit", "set", {"wear": "sport", "cloth": "#2f7fd0"}),
        ("灯光-关闭", "set", {"light": "off"}),
        ("音乐-切歌", "prop", {"name": "remote"}),
        ("音乐-舞曲", "motion", "dance"),
        ("杯子-倒酒", "prop", {"name": "bottle"}),
        ("fruit-slice apples", "motion", "chop"),
    ],
)
def test_names_that_two_patterns_fit_get_the_right_one(name, key, value):
    assert look(read_staging(), name)[key] == value


def test_the_scenes_are_the_demos_questions():
    scenes = [(scene["lang"], scene["ask"], tuple(scene["actions"])) for scene in read_staging().scenes]
    assert sorted(scenes) == sorted((lang, *one) for lang, ones in QUESTIONS.items() for one in ones)


def test_the_users_file_goes_before_ours(tmp_path):
    (tmp_path / "cup.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "waltz.webm").write_bytes(b"film")
    file = tmp_path / "stage.yaml"
    file.write_text(
        'actions: {"切开-西瓜": {prop: cup.svg, motion: pour}, "跳舞-华尔兹": {clip: waltz.webm}}\n'
        'rules: [{match: "切开-*", prop: "🔪", face: angry}, {match: "灯-*", set: {light: off}},'
        ' {match: "手势-*", motion: shake}]\n'
        "default: {motion: jump}\n"
        "scenes: [{ask: 饿了, actions: [切开-西瓜]}]\n",
        encoding="utf-8",
    )
    staging = read_staging(file)
    assert look(staging, "切开-西瓜") == {"prop": {"name": "", "src": "looks/0.svg"}, "motion": "pour"}
    assert look(staging, "跳舞-华尔兹")["clip"] == {"src": "looks/1.webm", "kind": "video"}
    assert look(staging, "切开-苹果")["face"] == "angry"
    assert look(staging, "灯-2")["set"] == {"light": "off"}
    assert look(staging, "手势-比心")["motion"] == "shake"
    assert look(staging, "wave-hello")["motion"] == "wave"
    assert staging.mapping["default"] == {"motion": "jump"}
    assert staging.scenes == [{"ask": "饿了", "actions": ["切开-西瓜"]}]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("actions: {a: {face: hapy}}", "actions.a.face: 'hapy'; afraid, angry"),
        ("rules: [{match: x, motion: fly}]", "rules[0].motion: 'fly'; bow"),
        ("rules: [{motion: nod}]", "rules[0].match: missing"),
        ("rules: [{match: [1]}]", "rules[0].match"),
        ("actions: {a: {prop: missing.png}}", "actions.a.prop: 'missing.png'; a picture file"),
        ("actions: {a: {clip: stage.yaml}}", "actions.a.clip"),
        ("actions: {a: {seconds: 0}}", "actions.a.seconds: 0; 0 .. 60"),
        ("actions: {a: {set: {cloth: red}}}", "actions.a.set.cloth: 'red'"),
        ("actions: {a: {colour: red}}", "actions.a.colour: 'red'; face, motion"),
        ("actions: {no: {motion: nod}}", "actions.False: put the name in quotes"),
        ("actions: [a]", "actions: ['a']"),
        ("scenes: [{ask: a, actions: [b, b]}]", "scenes[0].actions"),
        ("scenes: [{ask: 1}]", "scenes[0]"),
        ("moves: {}", "moves"),
        ("[", "expected"),
        ("3", "3"),
    ],
)
def test_a_fault_in_the_file_is_named_with_its_place(content, named, tmp_path):
    file = tmp_path / "stage.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=re.escape(named)) as caught:
        read_staging(file)
    assert caught.value.where == f"--stage {file}"


def test_all_faults_of_the_file_are_named_at_once(tmp_path):
    file = tmp_path / "stage.yaml"
    file.write_text("actions: {a: {face: x, motion: y}, b: 3}")
    with pytest.raises(UserError, match=r"(?s)a\.face.*a\.motion.*actions\.b"):
        read_staging(file)


def test_the_puppet_can_do_what_was_promised():
    names = drawn()
    assert len(names.face) >= 10
    assert len(names.prop) >= 20
    wanted = "nod shake wave bow jump turn dance point think stir chop pour give sleep"
    assert set(wanted.split()) <= set(names.motion)


def test_every_face_is_made_of_drawings_that_are_there():
    puppet = (STAGE / "puppet.svg").read_text(encoding="utf-8")
    for name, face in json.loads((STAGE / "faces.json").read_text(encoding="utf-8")).items():
        for kind in ("eyes", "mouth", "extra"):
            assert kind not in face or f'data-{kind}="{face[kind]}"' in puppet, (name, kind)


def test_the_page_needs_nothing_from_elsewhere_and_is_small():
    files = [file for file in STAGE.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 300_000
    for file in files:
        content = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in content, file
        assert "innerHTML" not in content, file
        assert not re.search(r"<[^>]+\s(style|on\w+)=|<script(?![^>]+src=)|<style", content), file


def test_a_recording_keeps_the_order_of_two_models_that_answered_at_once(tmp_path):
    lines = [
        ask("q", ["a"], "tuned"),
        ask("q", ["a"], "base"),
        text("T", 10, model="tuned"),
        text("B", 20, model="base"),
        act("a", 30, model="tuned"),
        done(40, model="base"),
        done(50, model="tuned"),
    ]
    tuned, base = read_recording(write_recording(tmp_path / "r.jsonl", *lines))
    assert [(ms, event["seq"], event["type"]) for ms, event in tuned.events] == [
        (10, 0, "text"),
        (30, 1, "action"),
        (50, 2, "done"),
    ]
    assert [event["type"] for _, event in base.events] == ["text", "done"]


def test_what_say_json_printed_is_a_recording(tmp_path):
    from actune.script.events import Act, Done, Say, to_json

    events = [Say("Hi."), Act("wave", 3), Done()]
    lines = [to_json(event, seq) for seq, event in enumerate(events)]
    (take,) = read_recording(write_recording(tmp_path / "r.jsonl", *lines))
    assert [event for _, event in take.events] == lines
    assert [ms for ms, _ in take.events] == sorted(ms for ms, _ in take.events)


def test_an_interrupted_recording_ends_all_the_same(tmp_path):
    (take,) = read_recording(write_recording(tmp_path / "r.jsonl", ask("q"), text("Hi")))
    assert take.events[-1][1]["finish_reason"] == "interrupted"


@pytest.mark.parametrize(
    "line", ["no json", '{"type": "dance"}', '{"type": "text"}', "[1]", '{"type": "ask", "question": "q"}', ""]
)
def test_a_line_that_is_no_event_is_named(line, tmp_path):
    file = tmp_path / "r.jsonl"
    file.write_text(f"\n{line}")
    with pytest.raises(UserError) as caught:
        read_recording(file)
    assert caught.value.where == (f"{file}:2" if line else str(file))


def fetch(address, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, dict(response.headers), response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()


def test_the_shipped_recording_is_served_with_the_page_behind_a_strict_policy():
    takes = read_recording(SHIPPED)
    with running(build_replay(takes, read_staging())) as address:
        status, headers, page = fetch(address)
        assert status == 200
        assert "main.js" in page
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        status, _, body = fetch(address + "act", {"question": takes[0].question, "model": takes[0].model})
        sent = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]
        assert sent == [event for _, event in takes[0].events]
        assert fetch(address + "act", {"question": "never asked"})[0] == 404
        assert fetch(address + "../staging.py")[0] == 404


def test_only_the_pictures_that_stage_yaml_names_are_sent(tmp_path):
    (tmp_path / "cup.png").write_bytes(b"cup")
    (tmp_path / "secret.png").write_bytes(b"secret")
    file = tmp_path / "stage.yaml"
    file.write_text("actions: {a: {prop: cup.png}}")
    with running(build_replay(read_recording(SHIPPED), read_staging(file))) as address:
        assert fetch(address + "looks/0.png")[2] == "cup"
        for other in ("looks/1.png", "looks/secret.png", "looks/..%2Fsecret.png", "looks/0.svg"):
            assert fetch(address + other)[0] == 404


def test_a_server_tells_the_page_what_it_offers():
    from serve_tools import FakeActor, server

    with server(FakeActor("Hi."), names=["wave", "bow"]) as served:
        setting = json.loads(served.get("/stage.json")[2])
        assert setting["names"] == ["wave", "bow"]
        assert setting["replay"] is False
        assert setting["mapping"]["rules"]
        assert served.get("/")[0] == 200


def test_the_port_is_checked(capsys):
    from actune.cli import main

    with pytest.raises(SystemExit) as caught:
        main(["stage", "--port", "70000"])
    assert caught.value.code == 2
    assert "--port" in capsys.readouterr().err


def test_the_example_and_the_lists_of_the_guide_are_true(tmp_path):
    guide = (Path(__file__).parent.parent / "docs" / "stage.md").read_text(encoding="utf-8")
    example = re.search(r"```yaml\n(.*?)```", guide, re.DOTALL)[1]
    for name in ("my/cup.svg", "clips/waltz.webm"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "stage.yaml").write_text(example, encoding="utf-8")
    assert read_staging(tmp_path / "stage.yaml").scenes[0]["ask"] == "饿了"
    for names in vars(drawn()).values():
        assert [name for name in names if f"`{name}`" not in guide] == []
