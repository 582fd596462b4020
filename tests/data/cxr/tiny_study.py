"""Three studies with what they have and lack, as `common.data.cxr.cases.read_cxr_cases` gives them."""

import numpy as np
from PIL import Image

from common.data.ehr.clinical_vector import CLINICAL_COLUMNS, ClinicalScaler

LABELS = ("Edema", "Fracture")
NOTES = ("Cough and fever, came by ambulance.", None, "Dyspnea.")


def make_cases(folder, n=3):
    """Cases c0, c1, ...: every third lacks its note, its clinical values or its image in turn; c0 has everything."""
    random = np.random.default_rng(0)
    cases = []
    for i in range(n):
        path = folder / f"c{i}.png"
        Image.fromarray(random.integers(0, 255, (72, 64), np.uint8)).save(path)
        clinical = random.normal(50, 9, len(CLINICAL_COLUMNS)).astype(np.float32)
        clinical[i] = np.nan
        cases.append(
            {
                "case": f"c{i}",
                "patient": f"p{i // 2}",
                "study": f"s{i}",
                "image": None if i % 3 == 2 else str(path),
                "note": NOTES[i % 3],
                "clinical": None if i % 3 == 1 else clinical,
                "label": np.array([i % 2, np.nan if i == 1 else 1], np.float32),
            }
        )
    return cases


def make_scaler(cases):
    return ClinicalScaler.fit([case["clinical"] for case in cases])
