"""Side-by-side measurements: `python -m benchmarks.NAME`. No figure here is a test.

| NAME | what is compared |
|---|---|
| `flow` | TV-L1 engines with OpenCV's |
| `flow_gpu`, `flow_waves`, `flow_workers` | TV-L1 on a GPU, by `gpu_report.sh` and `flow_frames` |
| `threads` | one video on several threads with one |
| `preprocess` | the whole stage with the loop that people write today |
| `memory` | a worker's peak memory with the length of its video |
| `damages` | what is noticed of damaged videos, and what is refused of good ones |
| `loader` | reading by index with other ways (`contenders`), and JPEG decoders (`decoders`) |
| `model` | the cost of each network with plain ResNets |
| `proofs.duet`, `proofs.weizmann` | accuracies with and without attention across the branches |
| `proofs.transfer` | the demo's networks on other colours, the last layer alone learning, or more |

`measuring` has what several of them need, `encodings` draws videos in many codecs.
"""
