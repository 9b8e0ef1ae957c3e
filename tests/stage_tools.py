"""A browser for the page of the stage, and recordings for it to play."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time

import pytest
import uvicorn

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def ask(question, actions=(), model="replay"):
    return {"type": "ask", "question": question, "actions": list(actions), "model": model}


def text(words, ms=0, **more):
    return {"type": "text", "text": words, "ms": ms, **more}


def act(name, ms=0, **more):
    return {"type": "action", "name": name, "args": None, "at": {"char": 0}, "ms": ms, **more}


def done(ms=0, **more):
    return {"type": "done", "finish_reason": "stop", "ttft_ms": 1, "tokens": 10, "ms": ms, "prevented": 2, **more}


def write_recording(file, *lines):
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return file


@contextlib.contextmanager
def running(app):
    """Serve an app on a free port in a thread; yields its address."""
    from actune.serve.run import listen

    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)


@contextlib.contextmanager
def chromium():
    """Start the machine's Chromium; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, address, **context):
    """Open the page; no error in its console is let pass."""
    page = browser.new_page(**{"locale": "en-GB", "viewport": {"width": 1280, "height": 800}} | context)
    page.set_default_timeout(90000)  # A loaded machine is slow, not wrong.
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    page.problems = errors
    yield page
    page.close()
    assert not errors


def put(page, question):
    page.fill("#question", question)
    page.press("#question", "Enter")


def idle(page):
    """Wait until the performance is over."""
    page.wait_for_selector("body:not(.busy)")


# Notes, in the page, everything that is performed, in its order: pieces of the dialogue.
def performed(page) -> list[str]:
    return page.locator("#talk .answer span").evaluate_all(
        "all => all.map(one => one.className + ':' + one.textContent)"
    )
