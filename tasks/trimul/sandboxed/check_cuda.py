"""Compares outputs of a kernel on a GPU with the true results, in a process in which no kernel ever ran.

It reads plan.json and outputs.bin, draws the inputs of each repeat again, and prints one JSON object: for each repeat
the elements outside the tolerance, the largest margin, and how many elements were compared.
"""

import json

import numpy as np
import torch
from workload import Workload, compare
from workload_cuda import draw, reference_parts


def main() -> None:
    """Compare all repeats."""
    torch.backends.cuda.matmul.allow_tf32 = False
    with open("plan.json", encoding="utf-8") as file:
        plan = json.load(file)
    results = []
    with open("outputs.bin", "rb") as outputs:
        for case in plan["cases"]:
            workload = Workload(*case["workload"])
            for repeat in case["repeats"]:
                output = np.frombuffer(outputs.read(repeat["size"]), np.float32)
                true = reference_parts(draw(workload, repeat["seed"]), repeat["rows"]).cpu().numpy()
                difference = compare(output.reshape(true.shape), true)
                results.append([difference.wrong, difference.margin, output.size])
    print(json.dumps(results))


main()
