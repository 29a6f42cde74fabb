"""Whatever way a dual encoder of open_clip's is stored, its embeddings here are those that open_clip gives."""
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from noisy_clf.errors import UserError
from noisy_clf.loaders.clip import IDS, Clip, load_clip
from noisy_clf.loaders.encoder import load_encoder
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.space import Space
from tests.noisy_clf.conftest import TouchesAFile
from tests.reference import with_drawn_weights

VISION = {"image_size": 16, "patch_size": 4, "width": 32, "head_width": 16, "layers": 1}
TEXT = {"context_length": 9, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
TINY = {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": TEXT}
PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
TEXTS = ["a three", "The DIGIT 8.", "déjà vu"]
OPENAI = {"input_resolution": torch.tensor(16), "context_length": torch.tensor(9), "vocab_size": torch.tensor(49408)}


def drawn(custom_text: bool = False, **settings: Any) -> Any:
    """open_clip's model, every tensor drawn."""
    return with_drawn_weights((open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**TINY | settings)).eval()


def folder_of(tensors: dict[str, Tensor], path: Path, model_cfg: dict[str, Any] = TINY) -> Path:
    """A folder as open_clip writes it."""
    path.mkdir()
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": PREPROCESS}))
    save_file(tensors, path / "open_clip_model.safetensors")
    return path


def tokens(texts: list[str]) -> Tensor:
    return open_clip.SimpleTokenizer()(texts, TEXT["context_length"])


@torch.no_grad()
def assert_same(clip: Clip, model: Any) -> None:
    """Texts' embeddings, and the image tower's tensors, which are all."""
    assert_close(clip.embeddings(TEXTS), model.encode_text(tokens(TEXTS), normalize=True))
    assert clip.image.keys() == model.visual.state_dict().keys()
    for name, tensor in model.visual.state_dict().items():
        assert_close(clip.image[name], tensor)


@pytest.fixture
def tiny(monkeypatch) -> dict[str, dict[str, Any]]:
    """An architecture of open_clip's of that name, and its weights by their tags, at first none."""
    tags: dict[str, dict[str, Any]] = {}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TINY)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", tags)
    return tags


@pytest.mark.parametrize("custom_text", [False, True])
def test_a_folder_in_open_clips_own_format(tmp_path, custom_text):
    model = drawn(custom_text)
    clip = load_clip(f"clip:{folder_of(model.state_dict(), tmp_path / 'model', TINY | {'custom_text': custom_text})}")
    assert_same(clip, model)
    assert (clip.mean, clip.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    assert "logit_scale" not in clip.image.keys() | clip.text.keys()


def test_a_folder_with_torchs_weights_alone(tmp_path):
    model = drawn()
    folder = folder_of(model.state_dict(), tmp_path / "model")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights; put them beside it"):
        load_clip(f"clip:{folder}")
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    assert_same(load_clip(f"clip:{folder}"), model)


def test_an_architecture_with_a_file_of_its_training_program(tmp_path, tiny):
    model = drawn()
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in model.state_dict().items()}},
               tmp_path / "epoch_3.pt")
    clip = load_clip(f"clip:tiny@{tmp_path / 'epoch_3.pt'}")
    assert_same(clip, model)
    assert clip.mean == open_clip.OPENAI_DATASET_MEAN and not clip.model_cfg["quick_gelu"]


def test_openais_own_state_dict_means_their_gelu(tmp_path, tiny):
    torch.save({name: tensor.half() for name, tensor in drawn().state_dict().items()} | OPENAI, tmp_path / "openai.pt")
    clip = load_clip(f"clip:tiny@{tmp_path / 'openai.pt'}")
    model = open_clip.model.CLIP(**TINY, quick_gelu=True)
    model.load_state_dict({name: tensor for name, tensor in torch.load(tmp_path / "openai.pt").items() if name not in OPENAI})
    assert_same(clip, model.eval())
    assert clip.model_cfg["quick_gelu"]


def test_open_clips_weights_by_their_tag_with_the_gelu_and_the_pixels_that_they_learned_with(tmp_path, tiny):
    model = drawn(quick_gelu=True)
    torch.save(model.state_dict(), tmp_path / "weights.bin")
    tiny["web"] = {"file": str(tmp_path / "weights.bin"), "quick_gelu": True, **PREPROCESS}
    clip = load_clip("clip:tiny@web")
    assert_same(clip, model)
    assert clip.mean == (0.4, 0.5, 0.6)


def test_without_a_network_a_file_is_asked_for(tiny, monkeypatch):
    def offline(**asked: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", offline)
    tiny["web"] = {"hf_hub": "nobody/nothing/"}
    with pytest.raises(UserError, match="could not get its weights web of tiny.*give them as a file, clip:tiny@FILE"):
        load_clip("clip:tiny@web")


def test_position_embeddings_are_resampled_as_open_clip_does_it(tmp_path):
    stored = TINY | {"vision_cfg": VISION | {"image_size": 24}, "text_cfg": TEXT | {"context_length": 7}}
    folder = folder_of(drawn(**stored).state_dict(), tmp_path / "model")
    assert_same(load_clip(f"clip:{folder}"), open_clip.create_model(f"local-dir:{folder}").eval())


def test_the_image_tower_sees_what_open_clips_does(tmp_path):
    model = drawn()
    name = f"clip:{folder_of(model.state_dict(), tmp_path / 'model')}"
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    seen = (x - torch.tensor(PREPROCESS["mean"])[:, None, None]) / torch.tensor(PREPROCESS["std"])[:, None, None]
    encoder = load_encoder(name, Space(NoiseSchedule.named("cosine", 100), 16, 3)).encoder
    with torch.no_grad():
        assert_close(encoder(2 * x - 1, torch.zeros(2)), model.encode_image(seen))


def cut(model: Any, path: Path, texts: list[str]) -> Path:
    """Its folder, of the token table's rows those that the texts take."""
    known, tensors = tokens(texts).unique(), model.state_dict()
    return folder_of(tensors | {"token_embedding.weight": tensors["token_embedding.weight"][known], IDS: known}, path)


def test_a_cut_token_table_gives_the_same_embeddings(tmp_path):
    model = drawn()
    clip = load_clip(f"clip:{cut(model, tmp_path / 'model', TEXTS)}")
    assert len(clip.text["token_embedding.weight"]) < 15
    assert_same(clip, model)


def test_words_that_were_cut_away_are_refused_by_name(tmp_path):
    clip = load_clip(f"clip:{cut(drawn(), tmp_path / 'model', ['a three', 'the digit 8'])}")
    clip.embeddings(["the three a 8"])
    with pytest.raises(UserError, match="has never learned dog, cat, of the text 'a dog the cat'; it knows these words: "
                                        "8, a, digit, the, three"):
        clip.embeddings(["a three", "a dog the cat"])


@pytest.mark.parametrize("text, told", [("", "an empty text"), (" \n", "an empty text"),
                                        ("one two three four five six seven eight", "reads 9 tokens")])
def test_texts_that_say_nothing_or_too_much(tmp_path, text, told):
    clip = load_clip(f"clip:{folder_of(drawn().state_dict(), tmp_path / 'model')}")
    clip.embeddings(["one two three four five six seven"])
    with pytest.raises(UserError, match=told):
        clip.embeddings(["a three", text])


def test_digests_tell_towers_apart_wherever_they_lie(tmp_path):
    model = drawn()
    first = load_clip(f"clip:{folder_of(model.state_dict(), tmp_path / 'first')}")
    torch.save(model.state_dict(), tmp_path / "again.pt")
    with torch.no_grad():
        model.ln_final.bias += 1
    other = load_clip(f"clip:{folder_of(model.state_dict(), tmp_path / 'other')}")
    assert other.image_digest == first.image_digest and other.text_digest != first.text_digest


def test_code_in_a_file_is_never_run(tmp_path, tiny):
    torch.save({**drawn().state_dict(), "more": TouchesAFile(tmp_path / "touched")}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="carries code"):
        load_clip(f"clip:tiny@{tmp_path / 'bad.pt'}")
    assert not (tmp_path / "touched").exists()


def test_without_open_clip_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match=r"pip install open_clip_torch"):
        load_clip("clip:digits")


@pytest.mark.parametrize("name, told", [
    ("clip:", "there is no dual encoder clip:: .*bundled are: clip:digits"),
    ("clip:ViT-B-33@openai", "there is no dual encoder .*did you mean ViT-B-32"),
    ("clip:ViT-B/32", "does not say which weights; give clip:ViT-B-32@FILE, or clip:ViT-B-32@TAG .*openai"),
    ("clip:ViT-B-32@opena", "opena is neither a file nor weights that open_clip has of ViT-B-32"),
    ("clip:EMPTY", "not a folder of open_clip's"),
    ("clip:BROKEN", "open_clip_config.json is not JSON"),
    ("clip:ODD", "its model_cfg is not that of a dual encoder"),
    ("clip:coca_ViT-B-32@FILE", "is a CoCa"),
    ("clip:ViT-L-14@FILE", "its position embeddings are another model's"),
    ("clip:tiny@TORSO", "its fc.weight belongs neither to an image tower"),
    ("clip:tiny@HALF", "has no text tower"),
])
def test_what_is_no_dual_encoder_is_told(tmp_path, tiny, name, told):
    tensors = drawn().state_dict()
    for folder in ("EMPTY", "BROKEN"):
        (tmp_path / folder).mkdir()
    (tmp_path / "BROKEN/open_clip_config.json").write_text("{")
    folder_of(tensors, tmp_path / "ODD", {**TINY, "text_cfg": {"depth": 3}})
    save_file(tensors, tmp_path / "FILE")
    save_file({"fc.weight": torch.ones(2)}, tmp_path / "TORSO")
    save_file({name: tensor for name, tensor in tensors.items() if name.startswith("visual.")}, tmp_path / "HALF")
    for path in tmp_path.iterdir():
        name = name.replace(path.name, str(path))
    with pytest.raises(UserError, match=told):
        load_clip(name)


def test_a_tower_of_other_sizes_is_refused_by_its_tensors_names(tmp_path):
    tensors = drawn().state_dict()
    clip = load_clip(f"clip:{folder_of(tensors, tmp_path / 'model', {**TINY, 'text_cfg': TEXT | {'layers': 2}})}")
    with pytest.raises(UserError, match="missing tensors, such as transformer.resblocks.1"):
        clip.embeddings(["a three"])
