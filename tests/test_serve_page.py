"""The page of the stage in a real browser: order, interruption, languages, hostile names, a small screen."""

from __future__ import annotations

import json

import pytest

from actune.serve.playback import build_replay
from actune.serve.recording import read_recording
from actune.serve.staging import read_staging
from serve_tools import FakeActor, server
from stage_tools import act, ask, chromium, done, idle, opened, performed, put, running, text, write_recording

EVIL = "<img src=x onerror=document.title='owned'>"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def looks(folder):
    """A stage.yaml whose actions are short."""
    file = folder / "stage.yaml"
    quick = "{motion: nod, seconds: 0.2}"
    file.write_text(
        f'rules: [{{match: ["free-*"], seconds: 0.6, blocking: false}}]\nactions: {{a: {quick}, b: {quick}}}\n'
    )
    return read_staging(file)


@pytest.fixture
def replay(tmp_path):
    """Serve a recording; returns a function that takes its lines."""
    stack = []

    def start(*lines):
        takes = read_recording(write_recording(tmp_path / "r.jsonl", *lines))
        stack.append(running(build_replay(takes, looks(tmp_path))))
        return stack[-1].__enter__()

    yield start
    for one in stack:
        one.__exit__(None, None, None)


# Every change of the placard, of the bubble and of the dialogue, with what else was to be seen at that time.
WATCH = """() => {
  window.seen = [];
  const note = () => {
    const card = document.querySelector(".placard");
    const now = [card.hidden ? "" : card.querySelector("b").textContent,
                 [...document.querySelectorAll("#talk .said")].map((one) => one.textContent).join("|")];
    if (JSON.stringify(now) !== JSON.stringify(window.seen.at(-1))) window.seen.push(now);
  };
  const all = {subtree: true, childList: true, attributes: true, characterData: true};
  new MutationObserver(note).observe(document.body, all);
}"""


# Numbers of the cue sheet that reach beyond their column, when an answer was slow to begin.
BEYOND = """() => {
  for (const one of document.querySelectorAll("[data-n=first]")) one.textContent = "13183 ms";
  const right = (one) => one.getBoundingClientRect().right;
  return [...document.querySelectorAll(".numbers div")]
    .filter((one) => right(one) > right(one.closest(".column")) + 0.5 || one.scrollWidth > one.clientWidth)
    .map((one) => one.textContent);
}"""


def test_words_and_actions_come_in_exact_order_however_fast_the_events_were(browser, replay):
    lines = [text("One. "), act("a"), act("b"), text("Two "), text("three."), act("a"), text("Four.")]
    with opened(browser, replay(ask("q", ["a", "b", "c"]), *lines, done())) as page:
        page.evaluate(WATCH)
        put(page, "q")
        idle(page)
        assert performed(page) == ["said:One. ", "act:a", "act:b", "said:Two three.", "act:a", "said:Four."]
        seen = page.evaluate("window.seen")
        # An action begins when all words before it have been said, and no later word is said while it lasts.
        for card, words in seen:
            assert card != "b" or words == "One. "
            assert card != "a" or words in ("One. ", "One. |Two three.")
        cards = [card for card, _ in seen if card]
        assert [card for place, card in enumerate(cards) if place == 0 or cards[place - 1] != card] == ["a", "b", "a"]
        # The chosen ones are marked in the list, the others are not.
        chosen = page.locator("#chips .chosen").evaluate_all("all => all.map(one => one.dataset.name)")
        assert chosen == ["a", "b"]
        assert page.locator("#chips .now").count() == 0
        cues = page.locator("#cues .list li").evaluate_all("all => all.map(one => one.className)")
        assert [cue.split()[0] for cue in cues] == ["text", "action", "action", "text", "action", "text", "done"]
        assert all("done" in cue.split() for cue in cues)
        assert page.locator('[data-n="prevented"]').inner_text() == "2"


@pytest.mark.slow
def test_an_action_that_does_not_block_lets_the_words_go_on_but_holds_the_next_action(browser, replay):
    lines = [text("Go. "), act("free-1"), text("Meanwhile."), act("a"), text("End.")]
    with opened(browser, replay(ask("q", ["free-1", "a"]), *lines, done())) as page:
        page.evaluate(WATCH)
        put(page, "q")
        idle(page)
        seen = page.evaluate("window.seen")
        assert any(card == "free-1" and words.startswith("Go. |M") for card, words in seen)
        first = next(place for place, (card, _) in enumerate(seen) if card == "a")
        assert seen[first][1] == "Go. |Meanwhile."


def test_stop_keeps_what_was_heard_and_the_next_question_tells_it(browser):
    script = "Hello there. <&a&>" + "And many more words that nobody will ever hear. " * 9
    with server(FakeActor(script), names=["a"]) as served, opened(browser, served.url + "/") as page:
        asked = []
        page.on("request", lambda request: asked.append(request.post_data_json) if request.method == "POST" else None)
        put(page, "first")
        page.locator("#talk .said").nth(1).wait_for()
        page.keyboard.press("Escape")
        said = "".join(piece[5:] for piece in performed(page) if piece.startswith("said:"))
        assert 12 < len(said) < 200
        assert performed(page)[-1] == "note:interrupted"
        assert page.locator("#stop").is_disabled()
        page.wait_for_timeout(300)
        assert said == "".join(piece[5:] for piece in performed(page) if piece.startswith("said:"))
        put(page, "second")
        # Until it has been said: a question that is stopped sooner may not reach the actor.
        page.locator("#talk .answer").nth(1).locator(".said").first.wait_for()
        page.keyboard.press("Escape")
        assert asked[1]["heard"] == said
        assert asked[1]["session"] == asked[0]["session"]
        history = served.actor.asked[1][2]
        assert history[1].text == f"Hello there. <&a&>{said[len('Hello there. ') :].rstrip()}"


def test_a_hostile_name_is_text_everywhere(browser, replay):
    lines = [text(f"{EVIL} said. "), act(EVIL), {"type": "error", "kind": "unlisted", "raw": EVIL, "at": {"char": 0}}]
    with opened(browser, replay(ask(EVIL, [EVIL, "a"]), *lines, done())) as page:
        page.locator("#scenes button").click()
        page.wait_for_selector(".placard:not([hidden])")
        assert page.locator(".placard b").inner_text() == EVIL
        assert "unmapped" in page.locator(".placard").get_attribute("class")
        idle(page)
        assert page.locator("img[src=x]").count() == 0
        assert page.title() != "owned"
        assert page.locator("#chips li span").first.inner_text() == EVIL
        assert f"act:{EVIL}" in performed(page)
        assert EVIL in page.locator("#cues .list").inner_text()


@pytest.mark.slow
def test_the_page_speaks_chinese_and_english(browser, replay):
    address = replay(ask("q", ["a"]), text("Hi."), done())
    with opened(browser, address, locale="zh-CN") as page:
        assert page.locator("#send").inner_text() == "发送"
        assert page.locator("html").get_attribute("lang") == "zh-CN"
        page.locator("#language").press("Enter")
        assert page.locator("#send").inner_text() == "Send"
        assert page.locator("html").get_attribute("lang") == "en"
        assert "我" not in page.locator("body").inner_text()


@pytest.mark.slow
def test_nothing_is_cut_off_on_a_phone_and_all_of_it_can_be_reached_by_keys(browser, replay):
    long = "a-very-long-name-of-an-action-" * 4
    address = replay(ask("q", [long, "a"]), act("a"), text("Words " * 1500), act("a"), done())
    with opened(browser, address, viewport={"width": 360, "height": 740}, locale="zh-CN") as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        put(page, "q")
        page.wait_for_selector(".words:not([hidden])")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        box = page.locator(".actor").bounding_box()
        assert box["height"] > 250
        page.wait_for_selector("#chips .chosen")
        assert page.evaluate("window.scrollY") == 0
        page.focus("#voice")
        reached = set()
        for _ in range(25):
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
            page.keyboard.press("Tab")
        assert {"voice", "save", "fresh", "language", "question", "send", "stop", "×", "name", "q"} <= reached


@pytest.mark.slow
def test_who_wants_no_motion_sees_poses_and_whole_words(browser, replay):
    address = replay(ask("q", ["a"]), text("A whole sentence."), act("a"), done())
    with opened(browser, address, reduced_motion="reduce") as page:
        page.evaluate(WATCH)
        put(page, "q")
        idle(page)
        words = {words for _, words in page.evaluate("window.seen")}
        assert words == {"", "A whole sentence."}
        assert performed(page) == ["said:A whole sentence.", "act:a"]


@pytest.mark.slow
def test_the_live_region_tells_each_sentence_and_action(browser, replay):
    with opened(browser, replay(ask("q", ["a"]), text("Hello."), act("a"), text("Bye."), done())) as page:
        put(page, "q")
        idle(page)
        assert page.locator("#live p").all_text_contents() == ["Hello.", "acts: a", "Bye."]


@pytest.mark.slow
def test_two_models_stand_side_by_side_and_the_dialogue_can_be_saved_and_replayed(browser, replay, tmp_path):
    lines = [
        *(ask("q", ["a"], "tuned"), text("Tuned.", model="tuned"), act("a", model="tuned"), done(model="tuned")),
        *(ask("q", ["a"], "base"), text("Base.", model="base"), done(model="base")),
    ]
    with opened(browser, replay(*lines)) as page:
        assert page.locator("#models label").all_inner_texts() == ["tuned", "base", "side by side"]
        assert page.locator(".actor").count() == 1
        page.get_by_text("side by side").click()
        assert page.locator(".actor").count() == 2
        put(page, "q")
        idle(page)
        assert performed(page) == ["said:Tuned.", "act:a", "said:Base."]
        page.set_viewport_size({"width": 1200, "height": 800})
        assert page.evaluate(BEYOND) == []
        with page.expect_download() as download:
            page.click("#save")
        download.value.save_as(tmp_path / "saved.jsonl")
    takes = {take.model: take for take in read_recording(tmp_path / "saved.jsonl")}
    assert [event["type"] for _, event in takes["tuned"].events] == ["text", "action", "done"]
    assert [event["type"] for _, event in takes["base"].events] == ["text", "done"]


@pytest.mark.slow
def test_the_list_is_what_is_asked_with(browser):
    with server(FakeActor("Hi."), names=["a", "b"]) as served, opened(browser, served.url + "/") as page:
        assert page.locator("#models").is_hidden()
        page.fill("#name", "c-one、d")
        page.press("#name", "Enter")
        page.get_by_label("remove a").press("Enter")
        with page.expect_request("**/act") as request:
            put(page, "q")
        assert json.loads(request.value.post_data)["actions"] == ["b", "c-one", "d"]
        idle(page)
        page.click("#clear")
        assert "only talk" in page.locator("#chips").inner_text()


@pytest.mark.slow
def test_a_refusal_is_shown_in_words(browser, replay):
    address = replay(ask("q"), text("Hi."), done())
    with opened(browser, address) as page:
        put(page, "something else")
        page.wait_for_selector("#problem:not([hidden])")
        assert "not in the recording" in page.locator("#problem").inner_text()
        page.problems.clear()  # The browser itself reports the 404.


@pytest.mark.slow
def test_a_server_with_a_key_asks_for_it(browser):
    with server(FakeActor("Hi."), key="secret") as served:
        page = browser.new_page(locale="en-GB")
        page.goto(served.url + "/")
        page.fill("#key", "secret")
        page.press("#key", "Enter")
        page.wait_for_selector("body[data-ready]")
        put(page, "q")
        page.wait_for_selector("#talk .said")
        page.close()


@pytest.mark.slow
def test_a_users_picture_emoji_and_clip_are_shown(browser, tmp_path):
    (tmp_path / "own.svg").write_text(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9'><path d='M0 0h9v9z'/></svg>"
    )
    file = tmp_path / "stage.yaml"
    lasting = "seconds: 60, caption: {en: a caption}"
    file.write_text(f'rules: [{{match: a, prop: own.svg, {lasting}}}, {{match: b, prop: "🥁", {lasting}}}]\n', "utf-8")
    with file.open("a", encoding="utf-8") as more:
        more.write(f"actions: {{c: {{clip: own.svg, {lasting}}}}}")
    lines = [line for name in "abc" for line in (ask(name, "abc"), act(name), done())]
    takes = read_recording(write_recording(tmp_path / "r.jsonl", *lines))
    shown = {
        "a": '.puppet image[href="looks/0.svg"]',
        "b": ".puppet text:has-text('🥁')",
        "c": '.clip img[src="looks/0.svg"]',
    }
    with running(build_replay(takes, read_staging(file))) as address, opened(browser, address) as page:
        for name, picture in shown.items():
            put(page, name)
            page.wait_for_selector(picture)
            assert page.locator(".placard").inner_text().split("\n") == [name, "a caption"]
            page.keyboard.press("Escape")
            assert page.locator(picture).count() == 0


@pytest.mark.slow
def test_with_the_voice_on_it_goes_on_even_where_there_is_no_voice(browser, replay):
    with opened(browser, replay(ask("q", ["a"]), text("Hi."), act("a"), done())) as page:
        assert page.locator("#voice").get_attribute("aria-pressed") == "false"
        page.click("#voice")
        with page.expect_request("**/act") as request:
            put(page, "q")
        assert json.loads(request.value.post_data)["chunk"] == "sentence"
        idle(page)
        assert performed(page) == ["said:Hi.", "act:a"]


@pytest.mark.slow
def test_every_motion_face_and_prop_can_be_shown(browser, replay):
    with opened(browser, replay(ask("q"), text("Hi."), done())) as page:
        shown = page.evaluate(
            """async () => {
              const { Puppet, wardrobe } = await import("./puppet.js");
              const things = await wardrobe();
              const puppet = new Puppet(things, false);
              document.body.append(puppet.svg);
              for (const face of Object.keys(things.faces)) puppet.face(face);
              let count = 0;
              for (const prop of things.props.querySelectorAll("[data-prop]")) {
                puppet.take({ name: prop.dataset.prop });
                count += puppet.svg.querySelectorAll("[data-prop]").length;
              }
              for (const motion of Object.keys(things.motions)) await puppet.perform({ motion }, 10);
              return [count, things.props.querySelectorAll("[data-prop]").length];
            }"""
        )
        assert shown[0] == shown[1] >= 20
