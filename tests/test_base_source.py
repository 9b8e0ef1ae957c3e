import json
import os

import pytest
import torch
from safetensors.torch import save_file

from actune.base import cache
from actune.base.cache import cache_folder, weights_sha256
from actune.base.source import resolve
from actune.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ACTUNE_LANG", "en")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "模型 a"
    path.mkdir()
    (path / "config.json").write_text("{}", encoding="utf-8")
    save_file({"w": torch.ones(4)}, path / "model.safetensors")
    return path


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("ACTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "actune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().parts[-2:] == (".cache", "actune")


def test_a_folder_resolves_to_itself(folder):
    source = resolve(str(folder))
    assert (source.id, source.path) == (str(folder), folder)
    assert source.sha256 == weights_sha256(folder)
    assert len(source.sha256) == 64


def test_the_hash_is_of_the_weights_and_is_read_once(folder, tmp_path, monkeypatch):
    read = []
    real = cache._digest
    monkeypatch.setattr(cache, "_digest", lambda file: read.append(file) or real(file))
    first = weights_sha256(folder)
    assert weights_sha256(folder) == first
    assert len(read) == 1
    (folder / "config.json").write_text("{ }", encoding="utf-8")
    save_file({"w": torch.zeros(4)}, folder / "adapter_model.safetensors")
    assert weights_sha256(folder) == first
    moved = folder.rename(tmp_path / "moved")
    assert weights_sha256(moved) == first
    save_file({"w": torch.zeros(4)}, moved / "model.safetensors")
    os.utime(moved / "model.safetensors", ns=(1, 1))
    assert weights_sha256(moved) != first


def test_a_torn_store_of_hashes_is_no_error(folder):
    first = weights_sha256(folder)
    (cache_folder() / "hashes.json").write_text('{"torn', encoding="utf-8")
    assert weights_sha256(folder) == first


def test_a_folder_without_safetensors_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        resolve(str(folder))


def test_a_missing_shard_is_named(folder):
    index = {"weight_map": {"w": "model.safetensors", "v": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(UserError, match=r"has no model-2\.safetensors"):
        resolve(str(folder))


def test_a_bundled_name_that_is_not_pulled_gives_the_line(tmp_path, monkeypatch):
    (tmp_path / "smollm2").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"actune pull smollm2$"):
        resolve("smollm2")
    with pytest.raises(UserError, match=r"actune pull gemma3 --accept-license$"):
        resolve("gemma3")


def test_a_missing_path_is_not_taken_for_a_hub_id(tmp_path):
    for name in (str(tmp_path / "none"), "./none", "a/b/c", ""):
        with pytest.raises(UserError, match=r"no such folder\n"):
            resolve(name)


def offline(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_offline_says_what_to_do(monkeypatch, tmp_path):
    offline(monkeypatch, tmp_path)
    with pytest.raises(UserError, match="copy the model here"):
        resolve("acme/tiny")


def test_a_hub_snapshot_that_is_here_is_used_offline(monkeypatch, tmp_path, folder):
    offline(monkeypatch, tmp_path)
    commit = "a" * 40
    repo = tmp_path / "hub" / "models--acme--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit, encoding="utf-8")
    (repo / "snapshots").mkdir()
    expected = weights_sha256(folder)
    folder.rename(repo / "snapshots" / commit)
    found = resolve("acme/tiny")
    assert found.sha256 == expected
    (found.path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="acme/tiny"):
        resolve("acme/tiny")


def test_modelscope_needs_its_library():
    with pytest.raises(UserError, match=r"pip install 'actune\[modelscope\]'"):
        resolve("acme/tiny", source="modelscope")


def test_a_wrong_source_lists_the_right_ones():
    with pytest.raises(UserError, match="hub, modelscope"):
        resolve("acme/tiny", source="ftp")
