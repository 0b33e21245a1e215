"""Smooth a noisy spectrum and count its peaks; the last line of the output is the result as JSON.

python analysis_with_params.py --threshold 0.5 --sigma 2.0 --method gaussian
"""

import argparse
import json

import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--threshold", type=float, required=True)
parser.add_argument("--sigma", type=float, required=True)
parser.add_argument("--method", choices=["gaussian", "tophat"], required=True)
given = parser.parse_args()

x = np.arange(2000)
lines = sum(np.exp(-(((x - centre) / 8) ** 2)) for centre in range(100, 2000, 200))
spectrum = lines + np.random.default_rng(7).normal(0, 0.3, x.size)

offset = np.arange(-30, 31)
kernels = {"gaussian": np.exp(-0.5 * (offset / given.sigma) ** 2), "tophat": 1.0 * (abs(offset) <= given.sigma)}
kernel = kernels[given.method]
smooth = np.convolve(spectrum, kernel / kernel.sum(), mode="same")

inner = smooth[1:-1]
peaks = (inner > smooth[:-2]) & (inner > smooth[2:]) & (inner > given.threshold)
print(json.dumps({"peaks": int(peaks.sum()), "highest": round(float(smooth.max()), 3)}))
