"""CPU seconds of a virtual patient, all findings on; best of five seeds. Prints one JSON line per size."""

import json
import platform
import time

from common.data.virtual.patient import CT_RATE_LABELS, make_virtual_patient

SIZES = {(96, 192, 192): ((1.5, 1, 1), 2.0), (48, 96, 96): ((3, 2, 2), 0.2)}


def main() -> None:
    for shape, (spacing, limit) in SIZES.items():
        seconds = []
        for seed in range(5):
            start = time.process_time()
            make_virtual_patient(seed, shape, spacing, findings=CT_RATE_LABELS)
            seconds.append(time.process_time() - start)
        line = {
            "name": "virtual patient, CPU seconds",
            "input": "x".join(map(str, shape)),
            "ours": round(min(seconds), 3),
        }
        line |= {"reference": limit, "ratio": round(min(seconds) / limit, 2), "worst": round(max(seconds), 3)}
        print(json.dumps(line | {"machine": platform.processor() or platform.machine()}))


if __name__ == "__main__":
    main()
