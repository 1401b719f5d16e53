#!/usr/bin/env bash
# What a GPU must tell about the flow engines, in under 8 minutes:
#
#     bash benchmarks/gpu_report.sh FRAMES.npz OUT
#
# `python -m benchmarks.flow_frames` writes FRAMES.npz, on any machine. Each part is printed as it
# comes and stands in OUT/PART.txt; OUT/parts.txt says how long each took and which failed. Needed
# are torch, Triton, NumPy, any OpenCV, pytest and hypothesis, in the Python that PYTHON names. Every
# engine of the registry that uses a GPU takes part. With TRITON_INTERPRET=1 and no GPU, few and
# short iterations show that all of it runs.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 2
if [ $# -ne 2 ] || [ ! -f "$1" ]; then
    echo "usage: bash benchmarks/gpu_report.sh FRAMES.npz OUT; no frames at '${1:-}'" >&2
    exit 2
fi
frames=$1 out=$2 failed=0 on_gpu=0
read -r -a python <<<"${PYTHON:-python3}"
mkdir -p "$out" && : >"$out/parts.txt"

# part NAME SECONDS COMMAND ...: what takes longer is ended, and the next part begins.
part() {
    local name=$1 limit=$2 begun=$SECONDS status=0
    shift 2
    # Triton's interpreter takes as long as it takes.
    [ "$on_gpu" -eq 1 ] || limit=0
    echo "=== $name"
    timeout --kill-after=5 "$limit" "$@" 2>&1 | tee "$out/$name.txt" || status=$?
    echo "$name: exit status $status, $((SECONDS - begun)) s" | tee -a "$out/parts.txt"
    [ "$status" -eq 0 ] || failed=1
}

module() { # NAME SECONDS MODULE ARGUMENTS ...
    part "$1" "$2" "${python[@]}" -m "${@:3}"
}


if command -v nvidia-smi >/dev/null; then
    on_gpu=1
    part driver 20 nvidia-smi
fi
module card 40 benchmarks.flow_gpu card "$frames" "$out"
REQUIRE_GPU=$on_gpu module tests 130 pytest -m gpu -p no:cacheprovider
module waves 40 benchmarks.flow_waves "$frames"
module batches 60 benchmarks.flow_gpu batches "$frames" "$out"
module workers 60 benchmarks.flow_workers "$frames"
module agreement 60 benchmarks.flow_gpu agreement "$frames" "$out"
ncu=$(command -v ncu || ls /usr/local/cuda*/bin/ncu /opt/nvidia/nsight-compute/*/ncu 2>/dev/null | tail -n 1)
if [ -n "$ncu" ]; then
    # The fifth launch of each kernel that iterates: a wave of cuda, the finest level of resident.
    for engine in $("${python[@]}" -m benchmarks.flow_gpu engines "$frames" "$out"); do
        module_command=("${python[@]}" -m benchmarks.flow_gpu once "$frames" "$out" --engine "$engine")
        part "ncu_$engine" 30 "$ncu" --set full --clock-control none --launch-skip 4 \
            --launch-count 1 --kernel-name 'regex:advance|resident' "${module_command[@]}"
    done
else
    echo "ncu: not installed here, so no look into a wave" | tee -a "$out/parts.txt"
fi
echo "=== all parts, $SECONDS s, in $out"
cat "$out/parts.txt"
exit "$failed"
