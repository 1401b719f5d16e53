# Needs Python 3.11 or newer and make; every target makes or refreshes .venv itself.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo duet duet3d weizmann utd ucf5 test chaos fuzz gpu lint bench clean

demo: $(STAMP)
	$(BIN)/twinstream demo --out demo

# The runs stay in duet/, weizmann/ and so on; the same command goes on where it was stopped.
duet: $(STAMP)
	$(BIN)/python -m benchmarks.proofs.duet --out duet
	$(BIN)/twinstream report duet/runs/*/* --out duet/report

duet3d: $(STAMP)
	$(BIN)/python -m benchmarks.proofs.duet3d --out duet3d
	$(BIN)/twinstream report duet3d/runs/*/two_stream duet3d/runs/*/cma --out duet3d/report

# Reads $TWINSTREAM_DATA/weizmann, or $TWINSTREAM_DATA itself where that holds videos/ and splits/.
weizmann: $(STAMP)
	$(BIN)/python -m benchmarks.proofs.weizmann --scratch --out weizmann
	$(BIN)/twinstream report weizmann/scratch/runs/*/* --out weizmann/report

# As weizmann: $TWINSTREAM_DATA/utd_mhad5 and $TWINSTREAM_DATA/ucf101_5cls.
utd: $(STAMP)
	$(BIN)/python -m benchmarks.proofs.utd_mhad --out utd
	$(BIN)/twinstream report utd/runs/*/* --out utd/report
	$(BIN)/twinstream report utd/runs/seed0/two_stream --out utd/report-two-stream

ucf5: $(STAMP)
	$(BIN)/python -m benchmarks.proofs.ucf101_5cls --out ucf5
	$(BIN)/twinstream report ucf5/runs/*/* --out ucf5/report
	$(BIN)/twinstream report ucf5/runs/split1/two_stream --out ucf5/report-two-stream

# Two processes, each with the tests of whole files: what a file's tests share is made once.
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos

fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz.videos
	$(BIN)/python -m tests.fuzz.files

# What needs a GPU: its tests and its benchmark, on frames of the videos below $TWINSTREAM_DATA.
gpu: $(STAMP)
	$(BIN)/python -m benchmarks.flow_frames .venv/frames.npz
	PYTHON=$(BIN)/python bash benchmarks/gpu_report.sh .venv/frames.npz gpu-report

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy benchmarks twinstream

bench: $(STAMP)
	$(BIN)/python -m benchmarks.flow
	$(BIN)/python -m benchmarks.preprocess
	$(BIN)/python -m benchmarks.model

clean:
	rm -rf .venv build *.egg-info

# Stale when pyproject.toml is newer; a failed installation leaves no stamp and is tried again.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
