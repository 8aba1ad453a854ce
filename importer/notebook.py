"""The lines that save a notebook's own numbers for --reference: `model_import.py notebook`.

Labels and numbers that the notebook computed are the one proof of an import that does not rest
on this program's reading of the model.
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
# Replace PIL.Image.open(…).convert("RGB") by what your notebook reads its images with.
# classes: names of the classes in the order of the logits, e.g. dataset.classes of ImageFolder.
# A network that ends in a softmax: write probabilities=… for logits=….
# Then: python model_import.py … --golden photos/ --reference reference.npz
"""
