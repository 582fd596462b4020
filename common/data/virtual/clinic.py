"""How ill a virtual patient is: complaint, vital signs, laboratory values and diagnoses that fit the X-ray's labels.

The clinic tells what the image cannot: whether an opacity is infected (fever, white cells, C-reactive protein), whether
a large heart fails (NT-proBNP, orthopnoea), and whether there is an embolism, which no plain X-ray shows. All values
are noisy, and a share of the complaints has nothing to do with the chest, so that none decides alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common.data.virtual.geometry import stream
from common.data.virtual.study import VirtualStudy
from common.data.virtual.xray_labels import is_infected

INFECTED_WITHOUT_OPACITY = 0.06
EMBOLISM = 0.05
FAILING_LARGE_HEART = 0.5
UNRELATED_COMPLAINT = 0.25
MARKED = (1.3, 1.0)  # of the beta distribution of how much an illness shows: some patients with pneumonia are afebrile

_COMPLAINTS = {
    "infected": ("Fever, Cough", "Cough", "Fever", "Productive cough, Dyspnea", "Chills, Cough"),
    "congested": ("Orthopnea, Leg swelling", "Dyspnea on exertion", "Shortness of breath", "Weight gain, Dyspnea"),
    "pneumothorax": ("Sudden onset dyspnea", "Sudden onset chest pain", "Chest pain, Dyspnea"),
    "embolism": ("Dyspnea, Leg pain", "Pleuritic chest pain", "Syncope, Dyspnea"),
    "fracture": ("s/p Fall", "MVC", "Rib pain", "s/p Fall, Chest wall pain"),
    "fluid": ("Dyspnea", "Shortness of breath", "Dyspnea, Abd distention"),
    "lesion": ("Hemoptysis", "Weight loss", "Cough, Weight loss"),
    "unrelated": ("Abd pain", "Headache", "Weakness", "Altered mental status", "Dizziness", "N/V", "Chest pain"),
}  # fmt: skip

# Code of ICD-9, code of ICD-10, share of the patients with the state in whose chart it is.
_STATE_CODES = {
    "infected opacity": (("486", "J189", 0.9),),
    "infected": (("0389", "A419", 0.25),),
    "congested": (("4280", "I509", 0.75), ("5184", "J810", 0.35)),
    "fluid": (("5119", "J90", 0.7),),
    "pneumothorax": (("51289", "J939", 0.95),),
    "embolism": (("41519", "I2699", 0.95),),
    "fracture": (("80702", "S2242XA", 0.85),),
    "lesion": (("79319", "R918", 0.5), ("1629", "C3490", 0.3)),
}
_OTHER_CODES = (
    ("4019", "I10"),
    ("2724", "E785"),
    ("5849", "N179"),
    ("27651", "E860"),
    ("2859", "D649"),
    ("53081", "K219"),
)

# Name in CHRONIC_CONDITIONS -> both codes, a home medicine, and the share of people of 40 and of 80 who have it.
CHRONIC = {
    "hypertension": ("4019", "I10", "lisinopril", 0.25, 0.7),
    "heart failure": ("4280", "I5022", "furosemide", 0.01, 0.15),
    "coronary artery disease": ("41401", "I2510", "aspirin", 0.03, 0.3),
    "atrial fibrillation": ("42731", "I4891", "apixaban", 0.01, 0.2),
    "pacemaker or defibrillator": ("V4501", "Z950", "metoprolol succinate", 0.0, 0.03),
    "COPD": ("496", "J449", "tiotropium bromide", 0.03, 0.2),
    "asthma": ("49390", "J45909", "albuterol sulfate", 0.1, 0.08),
    "lung cancer": ("1629", "C3490", "dexamethasone", 0.0, 0.02),
    "diabetes": ("25000", "E119", "metformin", 0.08, 0.25),
    "chronic kidney disease": ("5853", "N183", "sevelamer carbonate", 0.02, 0.2),
    "tobacco use": ("3051", "F17210", "nicotine", 0.2, 0.1),
}
# Label of the X-ray -> conditions behind it and the probability that they were known before.
_BEHIND = {
    "Cardiomegaly": (("heart failure", 0.4), ("hypertension", 0.7)),
    "Edema": (("heart failure", 0.6),),
    "Lung Lesion": (("lung cancer", 0.3), ("tobacco use", 0.5)),
    "Pneumothorax": (("COPD", 0.3),),
    "Support Devices": (("pacemaker or defibrillator", 0.3),),
}

_DOUBTFUL = ("Cardiomegaly", "Edema", "Fracture", "Lung Lesion", "Pleural Effusion", "Pneumothorax")


@dataclass(frozen=True)
class ClinicalState:
    """What a virtual patient suffers from during one study.

    Attributes:
        infected: there is an infection, of the lung if there is an opacity.
        opacity: the X-ray shows or may show a consolidation or an opacity.
        congested: the heart fails.
        fluid: there is a pleural effusion.
        pneumothorax: air in the pleura.
        embolism: an embolism of the lung, which the X-ray does not show.
        fracture: a broken rib.
        lesion: a nodule or mass.
        devices: tubes or lines: the patient is in intensive care or has a pacemaker.
        marked: how much the illness shows in signs and values, 0 (not at all) to 1.
    """

    infected: bool = False
    opacity: bool = False
    congested: bool = False
    fluid: bool = False
    pneumothorax: bool = False
    embolism: bool = False
    fracture: bool = False
    lesion: bool = False
    devices: bool = False
    marked: float = 1.0

    @property
    def severity(self) -> int:
        """Return how many of the states that threaten breathing or circulation there are."""
        return sum((self.infected, self.congested, self.pneumothorax, self.embolism, self.fluid))


def clinical_state(study: VirtualStudy, labels: Mapping[str, float | None]) -> ClinicalState:
    """Decide what the patient of a study suffers from.

    A finding with the label -1.0 is there or not by the throw of a coin. An opacity whose label "Pneumonia" is neither
    1.0 nor 0.0 is infected if the patient is. A label that is missing counts as None.
    """
    rng = stream(study.seed, f"clinic state/{study.scan}")
    coins = {name: bool(rng.random() < 0.5) for name in _DOUBTFUL}
    chance = rng.random(3)

    def there(name: str) -> bool:
        return labels.get(name) == 1.0 or (labels.get(name) == -1.0 and coins[name])

    opacity = any(labels.get(name) in (1.0, -1.0) for name in ("Consolidation", "Lung Opacity", "Pneumonia"))
    if labels.get("Pneumonia") in (1.0, 0.0):
        infected = labels["Pneumonia"] == 1.0
    else:
        infected = is_infected(study.seed, study.scan) if opacity else bool(chance[0] < INFECTED_WITHOUT_OPACITY)
    return ClinicalState(
        infected=infected,
        opacity=opacity,
        congested=there("Edema") or (there("Cardiomegaly") and bool(chance[1] < FAILING_LARGE_HEART)),
        fluid=there("Pleural Effusion"),
        pneumothorax=there("Pneumothorax"),
        embolism=bool(chance[2] < EMBOLISM),
        fracture=there("Fracture"),
        lesion=there("Lung Lesion"),
        devices=labels.get("Support Devices") == 1.0,
        marked=float(rng.beta(*MARKED)),
    )


def chief_complaint(state: ClinicalState, rng: np.random.Generator) -> str:
    """Draw the chief complaint of triage; it never names a finding of the X-ray."""
    reasons = [name for name in ("infected", "congested", "pneumothorax", "embolism", "fracture", "fluid", "lesion")
               if getattr(state, name)]  # fmt: skip
    related = reasons and rng.random() >= UNRELATED_COMPLAINT
    choices = _COMPLAINTS[reasons[rng.integers(len(reasons))] if related else "unrelated"]
    return choices[rng.integers(len(choices))]


def vital_signs(state: ClinicalState, rng: np.random.Generator, noise: float = 1.0) -> dict[str, float]:
    """Draw vital signs in the units of MIMIC-IV-ED (temperature in Fahrenheit); name -> value.

    ``noise`` is a factor; 0 gives the values that the state stands for.
    """
    s = state
    wet_lung = s.infected * s.opacity + s.congested
    means = {
        "temperature": (98.2, 1.9 * s.infected, 0.7),
        "heartrate": (84, 14 * s.infected + 9 * s.congested + 24 * s.pneumothorax + 26 * s.embolism, 13),
        "resprate": (17.5, 3 * (s.infected + s.congested) + 4 * (s.pneumothorax + s.embolism) + 2 * s.fluid, 1.9),
        "o2sat": (97.5, -3 * wet_lung - 4 * (s.pneumothorax + s.embolism) - s.fluid, 1.5),
        "sbp": (132, 18 * s.congested - 12 * s.infected - 14 * s.embolism, 16),
        "pain": (2, 5 * s.fracture + 4 * s.pneumothorax + 3 * s.embolism, 2),
    }
    draws = {name: mean + s.marked * shift + noise * sd * rng.standard_normal()
             for name, (mean, shift, sd) in means.items()}  # fmt: skip
    draws["sbp"] = float(np.clip(draws["sbp"], 70, 230))
    draws["dbp"] = float(np.clip(0.57 * draws["sbp"] + noise * 6 * rng.standard_normal(), 35, 0.85 * draws["sbp"]))
    draws["o2sat"] = float(np.clip(draws["o2sat"], 74, 100))
    draws["pain"] = float(np.clip(draws["pain"], 0, 10))
    return {name: round(float(value), 1 if name == "temperature" else 0) for name, value in draws.items()}


def lab_values(state: ClinicalState, rng: np.random.Generator, noise: float = 1.0) -> dict[str, float]:
    """Draw laboratory values; name of ``LAB_TESTS`` -> value in its unit, with noise as in ``vital_signs``."""
    s = state
    # Median of the healthy, factor of the illness, spread of the logarithm, digits.
    laws = {
        "White Blood Cells": (8.0, 1.8 if s.infected else 1, 0.33, 1),
        "Neutrophils": (66, 1.22 if s.infected else 1, 0.13, 1),
        "Hemoglobin": (12.6, 1, 0.14, 1),
        "Platelet Count": (225, 1, 0.3, 0),
        "Sodium": (139, 0.98 if s.congested else 1, 0.02, 0),
        "Potassium": (4.1, 1, 0.1, 1),
        "Bicarbonate": (25, 0.92 if s.infected else 1, 0.1, 0),
        "Urea Nitrogen": (17, 1.5 if s.congested else 1, 0.4, 0),
        "Creatinine": (0.95, 1.3 if s.congested else 1, 0.3, 1),
        "Glucose": (115, 1, 0.25, 0),
        "Albumin": (4.0, 0.78 if s.fluid else 1, 0.12, 1),
        "C-Reactive Protein": (8, 10 if s.infected else 1, 1.1, 1),
        "NTproBNP": (250, 15 if s.congested else 1, 1.0, 0),
        "Troponin T": (0.008, 4 if s.congested or s.embolism else 1, 0.7, 3),
        "D-Dimer": (450, (8 if s.embolism else 1) * (1.6 if s.infected else 1), 0.7, 0),
        "Lactate": (1.4, 1.5 if s.infected else 1, 0.35, 1),
    }
    values = {}
    for name, (median, factor, spread, digits) in laws.items():
        value = median * factor**s.marked * np.exp(noise * spread * rng.standard_normal())
        values[name] = round(float(value), digits)
    values["Neutrophils"] = min(values["Neutrophils"], 98.0)
    return values


def chronic_names(age: int, labels: Mapping[str, float | None], rng: np.random.Generator) -> tuple[str, ...]:
    """Draw the names in ``CHRONIC`` of what a patient had before.

    They are more common with age (years), and where the labels of the first study have them as a cause.
    """
    chances = {name: float(np.interp(age, (40, 80), (young, old))) for name, (*_, young, old) in CHRONIC.items()}
    for label, conditions in _BEHIND.items():
        if labels.get(label) == 1.0:
            for name, chance in conditions:
                chances[name] = max(chances[name], chance)
    return tuple(name for name, chance in chances.items() if rng.random() < chance)


def diagnosis_codes(
    state: ClinicalState, chronic: tuple[str, ...], version: int, rng: np.random.Generator
) -> list[str]:
    """Draw the ICD codes (version 9 or 10) of a stay in their order, those of the study's illness first."""
    states = {name: getattr(state, name) for name in _STATE_CODES if name != "infected opacity"}
    states["infected opacity"] = state.infected and state.opacity
    column = 0 if version == 9 else 1
    codes = [
        row[column] for name, rows in _STATE_CODES.items() if states[name] for row in rows if rng.random() < row[2]
    ]
    codes += [CHRONIC[name][column] for name in chronic if rng.random() < 0.9]
    codes += [pair[column] for pair in _OTHER_CODES if rng.random() < 0.15]
    return list(dict.fromkeys(codes)) or [("78650", "R079")[column]]
