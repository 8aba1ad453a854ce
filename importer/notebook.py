"""The lines that save a notebook's numbers for --reference: `model_import.py notebook`.

The notebook's labels and numbers are the only proof of an import that is independent of how this
program reads the model.
"""

CODE = """\
import pathlib, numpy, torch, PIL.Image  # model, transform and classes are those of the notebook
folder = pathlib.Path("photos")  # the folder that --golden names
files = [p for p in sorted(folder.rglob("*.*")) if p.suffix not in (".csv", ".txt")]
with torch.inference_mode():
    rows = [model.eval()(transform(PIL.Image.open(f).convert("RGB"))[None])[0] for f in files]
numpy.savez("reference.npz", files=[f.relative_to(folder).as_posix() for f in files],
            logits=torch.stack(rows).float().cpu().numpy(), labels=classes)
"""
HINTS = """\
# Replace PIL.Image.open(…).convert("RGB") by the call with which your notebook reads images.
# classes: names of the classes in the order of the logits, e.g. dataset.classes of ImageFolder.
# If the network ends in a softmax or sigmoid: write probabilities=… in place of logits=….
# Then: python model_import.py … --golden photos/ --reference reference.npz
"""
