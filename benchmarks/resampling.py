"""How long intervals over images take: 12 rows of 5,000 images, 1,000 draws, COCO's AP and VOC's.

python benchmarks/resampling.py [--rows N] [--json]

The scene of `scoring.py`: 500,000 detections in 80 classes, ten IoU thresholds. Every row is a job of its own, done
once and shared by all claims; the time of `--rows` of them, one after the other, in processor time, is scaled to 12.
Target: 12 rows of COCO's AP within 180 s.
"""

import argparse
import json
from statistics import median
from time import process_time

from scoring import IMAGES, scene

from benchsuite.metrics.coco import Coco
from benchsuite.metrics.metric import Metric
from benchsuite.metrics.voc import Voc

ROWS, TARGET = 12, 180.0
METRICS: dict[str, Metric] = {"COCO AP": Coco(), "VOC 2007 AP": Voc(year=2007), "VOC 2012 AP": Voc(year=2012)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3, help="rows that are drawn")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    data, found = scene()
    results = []
    for name, metric in METRICS.items():
        times = []
        for _ in range(options.rows):
            start = process_time()
            values = metric.drawn(data, found, "AP")
            times.append(process_time() - start)
        assert values is not None
        score = metric.score(data, found)["AP"]
        results.append(
            {"name": name, "row_s": round(median(times), 2), "rows_s": round(ROWS * median(times), 1),
             "off": abs(float(values[0]) - float(str(score))), "deviation": round(float(values[1:].std()), 3)}
        )  # fmt: skip
    if options.json:
        print(json.dumps(results))
        return
    for each in results:
        print(
            f"{each['name']}: {each['row_s']} s a row of {IMAGES:,} images, {each['rows_s']} s for {ROWS} (target <= "
            f"{TARGET:.0f} s); with every image once off the score by {each['off']:.0e}, deviation {each['deviation']}"
        )


if __name__ == "__main__":
    main()
