"""edgeseq beside other runtimes: the same networks, one process a runtime, in turns.

    python -m peers                # from benchmarks/, in .venv-bench; `make bench` makes that and calls this

| file | is |
|---|---|
| `workloads` | the networks and their inputs; the only file here that every runtime agrees on |
| `prepared` | a workload on disk: bundle, ONNX, inputs, PyTorch's float64 outputs |
| `runtimes/` | one file a runtime: convert to a file, load a file |
| `worker` | the process that holds one loaded workload in one runtime, and times it when it is told to |
| `turns` | who is timed when; what a round is |
| `statistics` | medians, spread and ratios of rounds |
| `limits` | read bandwidth and matrix products: what no runtime can beat |
| `benchmark` | everything in order, and the results as they come |
| `environments` | the environments, their packages, and what could not be installed |
"""
