"""Diagnosis codes of ICD-9-CM and ICD-10-CM in groups: eight that a chest X-ray may show, and chronic conditions.

A code belongs to a group if it starts with one of its prefixes; dots and case do not matter. The version does: E11 is
diabetes in ICD-10, and codes with E are causes of injury in ICD-9. I10, essential hypertension, says nothing about the
size of the heart and is in no chest group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Prefixes = Mapping[int, tuple[str, ...]]
"""Version (9 or 10) -> prefixes without dots."""

_HEART_FAILURE: Prefixes = {
    9: ("428", "39891", "40201", "40211", "40291", "40401", "40403", "40411", "40413", "40491", "40493"),
    10: ("I50", "I0981", "I110", "I130", "I132"),
}

ICD_GROUPS: Mapping[str, Prefixes] = {
    # J69.0/507.0 is aspiration pneumonitis; 997.31 and J95.851 are ventilator-associated pneumonia.
    "pneumonia": {
        9: ("480", "481", "482", "483", "484", "485", "486", "4870", "48801", "48811", "48881", "5070", "99731"),
        10: tuple("J12 J13 J14 J15 J16 J17 J18 J09X1 J100 J110 J690 J851 J95851 A481".split()),
    },
    # With empyema and blood in the pleura; pleurisy without fluid (511.0, R09.1) is not in it.
    "pleural_effusion": {
        9: ("510", "5111", "5118", "5119"),
        10: ("J86", "J90", "J91", "J940", "J942", "J948"),
    },
    "pneumothorax": {
        9: ("512", "8600", "8601", "8604", "8605"),
        10: ("J93", "J95811", "S270", "S272"),
    },
    "pulmonary_embolism": {9: ("4151",), 10: ("I26",)},
    "heart_failure": _HEART_FAILURE,
    "pulmonary_edema": {9: ("514", "5184"), 10: ("J81",)},
    # S22.0 is a vertebra and S22.2 the sternum; S22.5 is flail chest.
    "rib_fracture": {9: ("8070", "8071", "8074"), 10: ("S223", "S224", "S225")},
    # Primary, secondary, benign and uncertain tumours of the lung, and a nodule or mass found by imaging.
    "lung_mass": {
        9: ("1622", "1623", "1624", "1625", "1628", "1629", "1970", "2123", "2312", "2357", "7931"),
        10: ("C34", "C780", "D022", "D143", "D381", "R911", "R918"),
    },
}
"""The eight targets of the report generator, in its order."""

CHRONIC_CONDITIONS: Mapping[str, Prefixes] = {
    "hypertension": {9: ("401", "402", "403", "404", "405"), 10: ("I10", "I11", "I12", "I13", "I15", "I16")},
    "heart failure": _HEART_FAILURE,
    "coronary artery disease": {
        9: ("410", "411", "412", "413", "414", "V4581", "V4582"),
        10: ("I20", "I21", "I22", "I23", "I24", "I25", "Z951", "Z955"),
    },
    "atrial fibrillation": {9: ("4273",), 10: ("I48",)},
    "valve disease": {9: ("394", "395", "396", "397", "424"), 10: ("I05", "I06", "I07", "I08", "I34", "I35", "I36")},
    "pulmonary hypertension": {9: ("4160", "4168"), 10: ("I270", "I272")},
    "venous thromboembolism": {
        9: ("4151", "4534", "4538", "4539", "V1251", "V1255"),
        10: ("I26", "I824", "I825", "I829", "Z8671"),
    },
    "pacemaker or defibrillator": {9: ("V4501", "V4502"), 10: ("Z950", "Z95810")},
    "COPD": {9: ("491", "492", "496"), 10: ("J41", "J42", "J43", "J44")},
    "asthma": {9: ("493",), 10: ("J45",)},
    "interstitial lung disease": {9: ("515", "516"), 10: ("J84",)},
    "bronchiectasis": {9: ("494",), 10: ("J47",)},
    "sleep apnea": {9: ("3272", "78051", "78053", "78057"), 10: ("G473",)},
    "lung cancer": {9: ("1622", "1623", "1624", "1625", "1628", "1629", "V1011"), 10: ("C34", "Z8511")},
    "metastatic cancer": {9: ("196", "197", "198"), 10: ("C77", "C78", "C79")},
    "diabetes": {9: ("250",), 10: ("E08", "E09", "E10", "E11", "E13")},
    "chronic kidney disease": {9: ("403", "404", "585"), 10: ("I12", "I13", "N18")},
    "liver disease": {9: ("571",), 10: ("K70", "K721", "K73", "K74", "K7581", "K760")},
    "obesity": {9: ("2780",), 10: ("E66",)},
    "HIV": {9: ("042", "V08"), 10: ("B20", "Z21")},
    "organ transplant": {9: ("V42",), 10: ("Z94",)},
    "dementia": {9: ("290", "2941", "2942", "3310"), 10: ("F01", "F02", "F03", "G30")},
    "tobacco use": {9: ("3051", "V1582"), 10: ("F17", "Z720", "Z87891")},
}
"""What an earlier stay says about the patient for good."""


def normalise_icd(code: str) -> str:
    """Return a code as MIMIC writes it: upper case, without dot and blanks."""
    return code.replace(".", "").strip().upper()


def icd_groups(codes: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Say for each of the eight groups whether a code belongs to it.

    Args:
        codes: (code, version) pairs, version 9 or 10.

    Returns:
        Group -> 0 or 1, in the order of ``ICD_GROUPS``.

    Raises:
        ValueError: if a version is neither 9 nor 10.
    """
    found = matching(codes, ICD_GROUPS)
    return {name: int(name in found) for name in ICD_GROUPS}


def matching(codes: Iterable[tuple[str, int]], groups: Mapping[str, Prefixes]) -> set[str]:
    """Return the names of the groups that at least one code belongs to.

    Args:
        codes: (code, version) pairs.
        groups: name -> prefixes per version.

    Raises:
        ValueError: if a version is neither 9 nor 10.
    """
    found = set()
    for code, version in codes:
        if version not in (9, 10):
            raise ValueError(f"ICD version of code {code!r} is {version!r}, expected 9 or 10.")
        plain = normalise_icd(code)
        found.update(name for name, prefixes in groups.items() if plain.startswith(prefixes[version]))
    return found
