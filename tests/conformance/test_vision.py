"""Images: reading and resizing against Pillow, patches against transformers' image processor, the tower and the whole
model against transformers' Qwen2.5-VL on random weights."""

import json
import struct

import numpy as np
import pytest
import tiny_dimple
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

import program
from closeness import check_close
from tiny_dimple import END, MASK, PAD, START, VOCAB, picture

LIMIT = 1e-5
torch.set_num_threads(1)
torch.set_grad_enabled(False)


@pytest.fixture(scope="module")
def hf():
    return tiny_dimple.hf_model()


@pytest.fixture(scope="module")
def folder(hf, tmp_path_factory):
    return tiny_dimple.write_folder(tmp_path_factory.mktemp("dimple") / "masked", hf)


def resized(file, width, height, tmp_path):
    out = tmp_path / "out.png"
    program.run("image", file, "--size", width, height, "--out", out)
    return np.asarray(Image.open(out))


# ---- files ----


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "interlaced", "16"])
def test_png_is_read_as_pillow_reads_it(mode, tmp_path):
    file = tmp_path / "a.png"
    image = picture(45, 31)
    if mode == "P":
        image.quantize(17).save(file)
    elif mode == "16":
        wide = np.random.default_rng(1).integers(0, 1 << 16, (31, 45, 3)).astype(">u2")
        write_png16(file, wide)
    elif mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(np.random.default_rng(2).integers(0, 256, (31, 45)).astype(np.uint8)))
        image.save(file)
    else:
        image.convert("RGB" if mode == "interlaced" else mode).save(file)
    expected = np.asarray(Image.open(file).convert("RGB"))
    assert (resized(file, 45, 31, tmp_path) == expected).all()


def write_png16(file, rgb):
    """16 bits a channel, which Pillow reads but does not write."""
    import zlib
    h, w, _ = rgb.shape
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + row.tobytes() for row in rgb)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, 2, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("options", [dict(quality=95, subsampling=0), dict(quality=60), dict(progressive=True), "L"])
def test_jpeg_is_read_as_pillow_reads_it(options, tmp_path):
    file = tmp_path / "a.jpg"
    image = picture(67, 43)
    if options == "L":
        image.convert("L").save(file)
    else:
        image.save(file, **options)
    expected = np.asarray(Image.open(file).convert("RGB"))
    assert (resized(file, 67, 43, tmp_path) == expected).all()


@pytest.mark.parametrize("size", [(28, 28), (56, 84), (200, 31), (45, 31), (46, 31), (45, 90), (13, 7), (90, 64)])
def test_resizing_is_pillows_to_the_bit(size, tmp_path):
    file = tmp_path / "a.png"
    picture(45, 31, seed=3).save(file)
    expected = np.asarray(picture(45, 31, seed=3).resize(size, Image.BICUBIC))
    assert (resized(file, *size, tmp_path) == expected).all()


def test_sizes_are_those_of_transformers(tmp_path):
    rng = np.random.default_rng(4)
    sizes = [(int(w), int(h)) for w, h in rng.integers(28, 900, (40, 2))] + [(28, 28), (28, 5000), (1700, 1300)]
    files = []
    for i, size in enumerate(sizes):
        files.append(tmp_path / f"{i}.png")
        Image.new("RGB", size, (9, 8, 7)).save(files[-1])
    for line, (w, h) in zip(program.run("image", *files).splitlines(), sizes):
        expected = smart_resize(h, w, factor=28, min_pixels=56 * 56, max_pixels=28 * 28 * 1280)
        assert json.loads(line)["resized"] == [expected[1], expected[0]], (w, h)


@pytest.mark.parametrize("size", [(56, 56), (150, 97), (333, 61)])
def test_patches_are_those_of_transformers(size, tmp_path):
    file, out = tmp_path / "a.png", tmp_path / "patches.f32"
    picture(*size).save(file)
    line = json.loads(program.run("image", file, "--patches", out))
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280})
    batch = processor(images=[picture(*size)], return_tensors="np")
    assert line["grid"] == batch["image_grid_thw"][0].tolist()
    ours = np.fromfile(out, "<f4").reshape(batch["pixel_values"].shape)
    assert np.abs(ours - batch["pixel_values"]).max() <= 1e-6


# ---- the tower ----


def features_of(hf, patches, grids):
    """[cells, hidden] of several pictures through transformers' tower, then the projector."""
    out = hf.model.visual(torch.from_numpy(patches).double(), grid_thw=torch.tensor(grids))
    merged = out.pooler_output if hasattr(out, "pooler_output") else out
    return tiny_dimple.project(merged)


def seen(folder, files, tmp_path):
    """What the program makes of pictures: features, patches, grids."""
    patches, features = tmp_path / "patches.f32", tmp_path / "features.f32"
    lines = program.run("image", "-m", folder, *files, "--patches", patches, "--features", features).splitlines()
    return (np.fromfile(features, "<f4").reshape(-1, 64), np.fromfile(patches, "<f4").reshape(-1, 1176),
            [json.loads(line)["grid"] for line in lines])


@pytest.mark.parametrize("sizes", [[(56, 56)], [(112, 112)], [(140, 252)], [(308, 84)], [(28, 140)],
                                   [(252, 140), (112, 168)]])
def test_tower_is_transformers(hf, folder, sizes, tmp_path):
    files = []
    for i, size in enumerate(sizes):
        files.append(tmp_path / f"{i}.png")
        picture(*size, seed=i).save(files[-1])
    ours, patches, grids = seen(folder, files, tmp_path)
    check_close(f"tower {sizes}", ours, features_of(hf, patches, grids).numpy(), LIMIT)


def test_the_tower_depends_on_its_windows(hf, folder, tmp_path):
    """The comparison would notice a tower that sees everything everywhere."""
    file = tmp_path / "a.png"
    picture(252, 140).save(file)
    ours, patches, grids = seen(folder, [file], tmp_path)
    before = hf.model.visual.fullatt_block_indexes
    hf.model.visual.fullatt_block_indexes = [0, 1, 2, 3]
    other = features_of(hf, patches, grids).numpy()
    hf.model.visual.fullatt_block_indexes = before
    assert np.abs(ours - other).max() > 1e-2 * np.abs(other).max()


# ---- the model ----


def prompt_ids(grids, seed=7):
    rng = np.random.default_rng(seed)
    ids = [int(i) for i in rng.integers(0, 256, 5)]
    for _, h, w in grids:
        ids += [START] + [PAD] * (h * w // 4) + [END] + [int(i) for i in rng.integers(0, 256, 4)]
    return ids + [MASK] * 6


def reference_logits(hf, ids, features, grids, full):
    """transformers' language model with the features in place and its own positions; `full`: no mask."""
    tokens = torch.tensor([ids])
    x = hf.model.language_model.embed_tokens(tokens).clone()
    image = tokens == PAD
    if features is not None:
        x[image] = features
    grid = torch.tensor(grids) if grids else None
    positions, _ = hf.model.get_rope_index(tokens, mm_token_type_ids=image.long(), image_grid_thw=grid)
    mask = {"full_attention": torch.zeros(1, 1, len(ids), len(ids), dtype=x.dtype)} if full else None
    hidden = hf.model.language_model(inputs_embeds=x, position_ids=positions, attention_mask=mask).last_hidden_state
    return hf.lm_head(hidden)[0].numpy()


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("sizes", [[], [(140, 84)], [(84, 140), (56, 56)]])
def test_logits_are_transformers(hf, sizes, full, tmp_path):
    folder = tiny_dimple.write_folder(tmp_path / "model", hf, full_attn_mask=full)
    files, options = [], []
    for i, size in enumerate(sizes):
        files.append(tmp_path / f"{i}.png")
        picture(*size, seed=i).save(files[-1])
        options += ["--image", files[-1]]
    features = grids = None
    if files:
        _, patches, grids = seen(folder, files, tmp_path)
        features = features_of(hf, patches, grids)
    ids = prompt_ids(grids or [])
    ours = program.logits(folder, ids, VOCAB, tmp_path / "logits.f32", options=[*program.EXACT, *options])
    check_close(f"logits {sizes} full={full}", ours, reference_logits(hf, ids, features, grids, full), LIMIT)


def test_text_positions_are_plain_rotation(hf, folder, tmp_path):
    """Three equal axes are ordinary rotary positions: the same bits as a Dream folder of these weights."""
    from safetensors.torch import save_file
    plain = tmp_path / "dream"
    plain.mkdir()
    config = {k: v for k, v in tiny_dimple.CONFIG.items() if k not in ("rope_scaling", "vision_config", "full_attn_mask")}
    (plain / "config.json").write_text(json.dumps({**config, "architectures": ["DreamModel"], "model_type": "Dream"}))
    text = {n: t for n, t in tiny_dimple.tensors(hf).items() if n.startswith(("model.", "lm_head."))}
    save_file(text, plain / "model.safetensors")
    tiny_dimple.write_tokenizer(plain)
    ids = prompt_ids([])
    a = program.logits(folder, ids, VOCAB, tmp_path / "a.f32")
    b = program.logits(plain, ids, VOCAB, tmp_path / "b.f32")
    assert (np.asarray(a).view(np.uint32) == np.asarray(b).view(np.uint32)).all()


# ---- the folder ----


def test_sections_may_stand_beside_the_scaling(hf, folder, tmp_path):
    beside = tiny_dimple.write_folder(tmp_path / "beside", hf, rope_scaling=None, mrope_section=tiny_dimple.SECTIONS)
    file = tmp_path / "a.png"
    picture(84, 84).save(file)
    options = [*program.EXACT, "--image", file]
    ids = prompt_ids([[1, 6, 6]])
    a = program.logits(folder, ids, VOCAB, tmp_path / "a.f32", options=options)
    b = program.logits(beside, ids, VOCAB, tmp_path / "b.f32", options=options)
    other = tiny_dimple.write_folder(tmp_path / "other", hf, rope_scaling={"rope_type": "mrope", "mrope_section": [2, 4, 2]})
    c = program.logits(other, ids, VOCAB, tmp_path / "c.f32", options=options)
    assert (np.asarray(a).view(np.uint32) == np.asarray(b).view(np.uint32)).all()
    assert np.abs(a - c).max() > 1e-3 * np.abs(a).max()


@pytest.mark.parametrize("changes,key", [
    ({"rope_scaling": {"mrope_section": [4, 2, 3]}}, "mrope_section"),
    ({"rope_scaling": {"mrope_section": [4, 4]}}, "mrope_section"),
    ({"rope_scaling": {"mrope_section": [9, -1, 0]}}, "mrope_section"),
    ({"image_token_id": VOCAB}, "image_token_id"), ({"vision_config": {"num_heads": 5}}, "num_heads"),
    ({"vision_config": {"window_size": 14}}, "window_size"), ({"vision_config": {"hidden_act": "gelu"}}, "hidden_act"),
    ({"vision_config": {"fullatt_block_indexes": [4]}}, "fullatt_block_indexes"),
    ({"vision_config": {"depth": 0}}, "depth"), ({"vision_config": {"in_channels": 4}}, "in_channels")])
def test_a_config_that_makes_no_sense_is_refused_by_key(hf, changes, key, tmp_path):
    if "vision_config" in changes:
        changes = {"vision_config": {**tiny_dimple.VISION, **changes["vision_config"]}}
    folder = tiny_dimple.write_folder(tmp_path / "model", hf, **changes)
    file = tmp_path / "a.png"
    picture(56, 56).save(file)
    assert f'"{key}"' in program.refused("image", "-m", folder, file)


def test_there_is_no_gguf_form(folder, tmp_path):
    said = program.refused("quantize", "-m", folder, tmp_path / "out.gguf", "F32")
    assert "dimple" in said and not (tmp_path / "out.gguf").exists()

SEVEN = {"architectures": ["DimpleModel"], "model_type": "dimple", "vocab_size": 152064, "hidden_size": 3584,
         "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
         "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "hidden_act": "silu",
         "tie_word_embeddings": False, "mask_token_id": 151666, "full_attn_mask": True,
         "vision_config": {"model_type": "dimple"}}


def seven_billion_shapes():
    """Names and shapes as the sheet lists them, written out here."""
    out = {"visual.patch_embed.proj.weight": [1280, 3, 2, 14, 14], "visual.merger.ln_q.weight": [1280],
           "visual.merger.mlp.0.weight": [5120, 5120], "visual.merger.mlp.0.bias": [5120],
           "visual.merger.mlp.2.weight": [3584, 5120], "visual.merger.mlp.2.bias": [3584],
           "model.embed_tokens.weight": [152064, 3584], "model.norm.weight": [3584], "lm_head.weight": [152064, 3584]}
    for name in ("linear_1", "linear_2"):
        out |= {f"img_projector.{name}.weight": [3584, 3584], f"img_projector.{name}.bias": [3584]}
    for i in range(32):
        at = f"visual.blocks.{i}."
        out |= {at + "norm1.weight": [1280], at + "norm2.weight": [1280], at + "attn.qkv.weight": [3840, 1280],
                at + "attn.qkv.bias": [3840], at + "attn.proj.weight": [1280, 1280], at + "attn.proj.bias": [1280],
                at + "mlp.gate_proj.weight": [3420, 1280], at + "mlp.gate_proj.bias": [3420],
                at + "mlp.up_proj.weight": [3420, 1280], at + "mlp.up_proj.bias": [3420],
                at + "mlp.down_proj.weight": [1280, 3420], at + "mlp.down_proj.bias": [1280]}
    for i in range(28):
        at = f"model.layers.{i}."
        out |= {at + "input_layernorm.weight": [3584], at + "post_attention_layernorm.weight": [3584],
                at + "self_attn.q_proj.weight": [3584, 3584], at + "self_attn.q_proj.bias": [3584],
                at + "self_attn.k_proj.weight": [512, 3584], at + "self_attn.k_proj.bias": [512],
                at + "self_attn.v_proj.weight": [512, 3584], at + "self_attn.v_proj.bias": [512],
                at + "self_attn.o_proj.weight": [3584, 3584], at + "mlp.gate_proj.weight": [18944, 3584],
                at + "mlp.up_proj.weight": [18944, 3584], at + "mlp.down_proj.weight": [3584, 18944]}
    return out


def write_shapes(folder, shapes):
    """A folder of 16 GB that takes no room: a header, then a hole."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SEVEN))
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)


def test_a_header_of_the_published_model_is_accepted_and_a_wrong_shape_named(tmp_path):
    image = tmp_path / "a.png"
    picture(112, 84).save(image)
    shapes = seven_billion_shapes()
    folder = tmp_path / "seven"
    write_shapes(folder, shapes)
    assert json.loads(program.run("image", "-m", folder, image))["tokens"] == 12
    wrong = {"visual.blocks.30.attn.qkv.bias": [3841], "img_projector.linear_2.weight": [3584, 3583],
             "visual.merger.mlp.0.weight": [5120, 1280], "model.layers.3.self_attn.k_proj.weight": [514, 3584]}
    broken = [(name, {**shapes, name: shape}) for name, shape in wrong.items()]
    for name in ("visual.blocks.0.norm1.weight", "img_projector.linear_1.bias"):
        broken.append((name, {n: s for n, s in shapes.items() if n != name}))
    broken.append(("visual.extra", {**shapes, "visual.extra": [3]}))
    for name, changed in broken:
        write_shapes(folder, changed)
        assert f'"{name}"' in program.refused("image", "-m", folder, image)
