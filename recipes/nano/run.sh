#!/usr/bin/env bash
# nano from raw text to chat: recipes/nano/run.sh. About a day on two cores; stopped and started again, it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/../.."
make --no-print-directory .venv/.installed-test
export PATH="$PWD/.venv/bin:$PATH"
[ -d runs/nano/corpus ] || python recipes/nano/build_corpus.py --out runs/nano/corpus --text runs/nano/text --workers 2
[ -d runs/nano/chat ] || python recipes/nano/chat_data.py --out runs/nano/chat
[ -d runs/nano/tools ] || python recipes/nano/tool_data.py --out runs/nano/tools
[ -d runs/nano/passages ] || python recipes/nano/passage_data.py --out runs/nano/passages
glm pretrain --config recipes/nano/pretrain.toml
glm sft --config recipes/nano/finish.toml
glm sft --config recipes/nano/sft.toml
python recipes/nano/publish.py
python recipes/nano/chat_probe.py nano
