"""Names, and what is called by them."""

import csv
import gzip
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

BUNDLES = Path(__file__).parents[2] / "bundles"
CT, CXR = BUNDLES / "ct_slice_interpolation", BUNDLES / "mdfnet_cxr"
CANARY = "$__import__('os').mkdir('RAN')"
WRITTEN = (  # of which each has been seen in somebody's folder, or is what a sign means to MONAI, a shell, HTML or CSV
    CANARY, "@y", "%z.json#a", "Study #1", "a$b", "admin@site", "@#x", "100%", "{a}", "it's", 'the "old"', "a;b", "a,b",
    "two\nlines", "\U0001fac1 lungs", "صدر أشعة", "\u202egnp", "-x", "--trust", "a\\b", "__import__('os').mkdir('RAN')",
    "$(mkdir RAN)", "`mkdir RAN`", "$HOME", "<b>x", r"a$\frac{b$", "=1+1", "x" * 200, " a ", "é", "e\u0301", "null",
    "@output_dir", "$@seed + 1", "a::b", "@::x", "None", "true", "001", "1e5", "[1]", "aux", "name.", "#",
)  # fmt: skip
SIGNS = "$@#%{}'\"`;,\\\n\t -_.()[]=:&|<>*?!~^aZ09éÅ\u0301ضא\U0001fac1\u202e\u200f\xa0"
any_text = st.one_of(
    st.sampled_from(WRITTEN), st.text(st.sampled_from(SIGNS), min_size=1, max_size=40), st.text(min_size=1, max_size=40)
)
FAST = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FEW = settings(FAST, max_examples=6)
MANY = settings(FAST, max_examples=80)


def can_name_a_file(text, ending=""):
    return not set(text) & {"/", "\0"} and len(f"{text}{ending}".encode()) < 200 and text.strip(". ") != ""


file_names = any_text.filter(can_name_a_file)


def rows(path):
    with Path(path).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def copy_ct(ct_file, place):
    """The CT under another name, packed if that says so."""
    place.parent.mkdir(parents=True, exist_ok=True)
    data = ct_file.read_bytes()
    place.write_bytes(data if place.name.endswith(".gz") else gzip.decompress(data))


def folder_for(tmp_path, name):
    """A new folder of that name, in one that holds nothing else."""
    place = tmp_path / str(sum(1 for _ in tmp_path.iterdir())) / name
    place.mkdir(parents=True)
    return place
