# The two commands of a newcomer: `make train` and `make test`. Each sets up .venv by itself.
PYTHON ?= python3
# Modules are compiled when they are first imported; most of those installed never are.
PIP_FLAGS ?= -q --disable-pip-version-check --no-compile
BIN := .venv/bin
EXPERIMENTS ?= configs/experiment/baseline.yaml configs/experiment/frozen.yaml configs/experiment/camembert-mini.yaml
SET ?=
OVERRIDES := $(foreach s,$(SET),--set $(s))
# Keep glibc from giving large blocks back to the kernel after every step: 5 to 25 % faster training.
export MALLOC_MMAP_THRESHOLD_ := 4294967296
export MALLOC_TRIM_THRESHOLD_ := 4294967296
export MLFLOW_DISABLE_TELEMETRY := true
# The embedded job never needs the hub; a hub model (camembert-base) is asked for with HUB=1,
# a source that reads from the network (a feed, a hub dataset) with ONLINE=1.
export HF_HUB_OFFLINE := $(if $(filter-out 0,$(HUB) $(ONLINE)),0,1)


.PHONY: help train data label annotate audit tune curve ablate adapt distil compare promote reproduce sync robustness drift test test-services test-browser lint ui clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.venv/.train: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing presseco[train] into .venv (2 minutes the first time)"
	@$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[train]'
	@touch $@

.venv/.collect: .venv/.train
	@echo "installing presseco[train,collect] into .venv"
	@$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[train,collect]'
	@touch $@

.venv/.dev: .venv/.train
	@echo "installing presseco[train,dev] into .venv"
	@$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[train,dev]'
	@touch $@

train: .venv/.train ## corpus, baselines and CamemBERT, compared in MLflow, exported to dist/; EXPERIMENTS="file.yaml ..."
	@$(BIN)/presseco train $(EXPERIMENTS) $(OVERRIDES)

data: $(if $(SOURCE),.venv/.collect,.venv/.train) ## the labelled corpus; SOURCE=configs/source/folder.yaml: of your own press
	@$(BIN)/presseco data $(if $(SOURCE),--source $(SOURCE)) $(if $(filter-out 0,$(ONLINE)),--online) $(OVERRIDES)

label: .venv/.train ## weak labels from patterns, companies, seeds, and how good they are; SOURCE=...
	@$(BIN)/presseco label $(if $(SOURCE),--source $(SOURCE)) $(if $(filter-out 0,$(ONLINE)),--online) $(OVERRIDES)

annotate: .venv/.train ## what to label next, for Label Studio: ARTICLES=file.jsonl, MODEL=dist/camembert, N=100
	@test -n "$(ARTICLES)" || { echo "make annotate ARTICLES=<unlabelled articles, JSON Lines>"; exit 1; }
	@$(BIN)/presseco annotate --articles '$(ARTICLES)' $(if $(MODEL),--model '$(MODEL)') $(if $(N),--n $(N)) $(OVERRIDES)

.venv/.annotate: .venv/.train
	@echo "installing presseco[train,annotate] into .venv"
	@$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[train,annotate]'
	@touch $@

audit: .venv/.annotate ## labels of the embedded corpus that look wrong (cleanlab)
	@$(BIN)/presseco audit $(OVERRIDES)

tune: .venv/.train ## search for better settings: TRIALS=10, EXPERIMENT=file.yaml
	@$(BIN)/presseco tune --trials $(or $(TRIALS),10) $(if $(EXPERIMENT),--experiment $(EXPERIMENT)) $(OVERRIDES)

curve: .venv/.train ## learning curves of all models (hours on a CPU: EXPERIMENTS, SIZES, SEEDS)
	@$(BIN)/presseco curve $(EXPERIMENTS) $(if $(SIZES),--sizes $(SIZES)) $(if $(SEEDS),--seeds $(SEEDS)) $(OVERRIDES)

ablate: .venv/.train ## what each choice of the recipe is worth (hours on a CPU: SIZE, SEEDS, ONLY, SET)
	@$(BIN)/presseco ablate $(if $(SIZE),--size $(SIZE)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(ONLY),--only $(ONLY)) $(OVERRIDES)

adapt: .venv/.collect ## go on pre-training the encoder on unlabelled articles: TEXTS=folder, OUTPUT=folder, EPOCHS=1
	@test -n "$(TEXTS)" || { echo "make adapt TEXTS=<folder of articles>"; exit 1; }
	@$(BIN)/presseco adapt --texts $(TEXTS) $(if $(OUTPUT),--output $(OUTPUT)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(OVERRIDES)

distil: $(if $(TEXTS),.venv/.collect,.venv/.train) ## train the mini from a larger fine-tuned model: TEACHER=bundle, TEXTS=folder
	@test -n "$(TEACHER)" || { echo "make distil TEACHER=<bundle or checkpoint of a larger model>"; exit 1; }
	@$(BIN)/presseco train configs/experiment/camembert-mini.yaml --set name=camembert-distilled \
	  --set distil.teacher=$(TEACHER) $(if $(TEXTS),--set distil.texts=$(TEXTS)) $(OVERRIDES)

compare: .venv/.train ## two or more runs, A=... B="... ..." (default: baseline and CamemBERT of the last training)
	@$(BIN)/presseco compare $(if $(A),--a '$(A)') $(if $(B),--b $(B)) $(OVERRIDES)

promote: .venv/.train ## make the newest version champion if it passes the gate; VERSION=2: that one
	@$(BIN)/presseco promote $(if $(VERSION),--version $(VERSION)) $(OVERRIDES)

reproduce: .venv/.train ## train a run again, RUN=<id>, and compare its metrics
	@test -n "$(RUN)" || { echo "make reproduce RUN=<run id>: the id is on the run's page in make ui"; exit 1; }
	@$(BIN)/presseco reproduce --run $(RUN) $(OVERRIDES)

sync: .venv/.train ## send the runs that wait for their tracking server
	@$(BIN)/presseco sync

robustness: .venv/.train ## behaviour tests of dist/camembert
	@$(BIN)/presseco robustness $(OVERRIDES)

drift: .venv/.train ## new articles against those of training, INPUT=articles.jsonl, MODEL=dist/camembert; fails on drift
	@test -n "$(INPUT)" || { echo "make drift INPUT=<file>: JSON Lines, CSV, TSV or parquet with id, text, title"; exit 1; }
	@$(BIN)/presseco drift --input '$(INPUT)' $(if $(MODEL),--model '$(MODEL)')

test: .venv/.dev ## lint, types, unit, data, model and export tests
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2 --dist loadfile

test-services: .venv/.dev ## the heavier suites; they install what they need
	@$(BIN)/pytest -m services

test-browser: .venv/.dev ## MLflow's pages in Chromium, on a store of tiny models
	@$(BIN)/pytest -m services tests/test_browser.py

lint: .venv/.dev ## format and fix
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

ui: .venv/.train ## MLflow's pages on the store that training writes: PORT=5000
	@case "$$MLFLOW_TRACKING_URI" in http*) echo "the pages of your server: $$MLFLOW_TRACKING_URI"; exit 1;; esac
	@$(BIN)/python -m presseco.views http://127.0.0.1:$(or $(PORT),5000)
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server --workers 1 --port $(or $(PORT),5000) \
	  --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlflow.db}" \
	  --default-artifact-root "$(CURDIR)/mlartifacts"

clean: ## remove built corpus, checkpoints and dist; keeps .venv, mlflow.db, waiting runs, collected press
	rm -rf build/corpus build/runs build/compare dist
