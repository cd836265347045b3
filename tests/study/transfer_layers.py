"""Where the rows of Hidden Transfer should enter, and what each of its parts buys: short trainings from one recipe.

    tests/study/transfer_layers.py [--recipe recipes/smollm2-transfer.json] [--steps 150] [--out runs/transfer-layers]
                                   [--layers 0,5,10,15,20,25,30] [--ablations] [--threads 2] [--seeds 1]

Each run is the recipe with another layer (or another part left out), the same data and as many steps. Accuracies are of
the held-out texts that the recipe names. Writes results.json and layers.svg; runs that are there are not made again."""

import argparse
import copy
import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TUTTI = os.environ.get("TUTTI", str(ROOT / "build/release/tutti"))
ABLATIONS = {
    "alone": {"see_previous": False},  # rows do not see those of smaller offsets
    "one map": {"shared": True},
    "no bias": {"bias": False},
    "early exit": {"refined": False},  # the map, then the head
    "medusa": {"map": "medusa"},
    "text": {"teacher": "text"},  # cross entropy of the text's token
}


def loss_with(recipe, change):
    loss = {**recipe["loss"], **change}
    if loss.get("map") == "medusa":
        loss.pop("enter", None)
    return loss


def absolute(recipe, folder):
    """The recipe with the paths of its files made whole: the runs' own recipes lie elsewhere."""
    recipe = copy.deepcopy(recipe)
    recipe["data"]["jsonl"] = str((folder / recipe["data"]["jsonl"]).resolve())
    recipe["evaluation"]["held_out"] = str((folder / recipe["evaluation"]["held_out"]).resolve())
    return recipe


def run(recipe, name, folder, threads):
    out = folder / name.replace(" ", "-")
    out.mkdir(parents=True, exist_ok=True)
    path = folder / (out.name + ".json")
    path.write_text(json.dumps(recipe))
    log = out / "log.jsonl"
    if not (out / "adapter").exists() or last_accuracy(log, recipe["steps"]) is None:
        subprocess.run([TUTTI, "train", path, "-o", out, "-t", str(threads), "-q"]
                       + (["--resume"] if (out / "state.safetensors").exists() else []), check=True)
    return last_accuracy(log, recipe["steps"])


def last_accuracy(log, step):
    if not log.exists():
        return None
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    found = [line["accuracy"] for line in lines if "accuracy" in line and line["step"] == step]
    return found[-1] if found else None


def plot(results, path):
    """Accuracy of the first guess by layer, a line per offset."""
    width, height, left, bottom = 560, 340, 60, 40
    layers = sorted(results)
    top = max(share[0] for accuracy in results.values() for share in accuracy) * 1.1

    def place(layer, share):
        x = left + (width - left - 20) * (layer - layers[0]) / max(layers[-1] - layers[0], 1)
        return f"{x:.1f},{height - bottom - (height - bottom - 20) * share / top:.1f}"

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
             'font-size="12"><rect width="100%" height="100%" fill="white"/>']
    for offset, colour in zip(range(len(results[layers[0]])), ("#1b6ca8", "#c8553d", "#3a7d44", "#7a5195")):
        points = " ".join(place(layer, results[layer][offset][0]) for layer in layers)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{width - 110}" y="{24 + 16 * offset}" fill="{colour}">{offset + 2} tokens ahead</text>')
    for layer in layers:
        x = place(layer, 0).split(",")[0]
        parts.append(f'<text x="{x}" y="{height - bottom + 16}" text-anchor="middle">{layer}</text>')
    for share in (0, top / 2, top):
        y = place(layers[0], share).split(",")[1]
        parts.append(f'<text x="{left - 8}" y="{y}" text-anchor="end">{100 * share:.0f} %</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 8}" text-anchor="middle">layer where the rows enter</text></svg>')
    path.write_text("\n".join(parts) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/smollm2-transfer.json")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("runs/transfer-layers"))
    parser.add_argument("--layers", default="0,5,10,15,20,25,30")
    parser.add_argument("--ablations", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    o = parser.parse_args()
    recipe = absolute(json.loads(o.recipe.read_text()), o.recipe.resolve().parent)
    recipe.update(steps=o.steps, save_every=0)
    recipe["evaluation"].update(every=0, texts=o.texts)
    changes = {f"layer {layer}": {"enter": int(layer)} for layer in o.layers.split(",")}
    if o.ablations:
        changes |= ABLATIONS
    results = {}
    for seed in range(1, o.seeds + 1):
        for name, change in changes.items():
            one = {**recipe, "name": name, "seed": seed, "loss": loss_with(recipe, change)}
            results[name if seed == 1 else f"{name}, seed {seed}"] = run(one, f"{name} {seed}", o.out, o.threads)
            print(f"{name}, seed {seed}: "
                  + " ".join(f"{share[0]:.3f}" for share in run(one, f"{name} {seed}", o.out, o.threads)), flush=True)
    (o.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    plot({int(name.split()[1]): accuracy for name, accuracy in results.items()
          if name.startswith("layer ") and "seed" not in name}, o.out / "layers.svg")


if __name__ == "__main__":
    main()
