#!/usr/bin/env bash
# From ratings to a better version in a running server: recipes/feedback/run.sh [FOLDER]. Five minutes of processor time.
# A server with nano keeps real ratings; they become pairs, a reward model and a version tuned by DPO, which the same
# server then tries on half of its traffic and keeps.
set -euo pipefail
cd "$(dirname "$0")/../.."
make --no-print-directory .venv/.installed-test
export PATH="$PWD/.venv/bin:$PATH"
out=${1:-runs/feedback}
port=${PORT:-8123}
url=http://127.0.0.1:$port
mkdir -p "$out"
store="sqlite:///$(realpath "$out")/feedback.db"
key=$(python -c 'import secrets; print(secrets.token_hex(16))')
printf 'admin_key = "%s"\n' "$key" > "$out/serve.toml"
chmod 600 "$out/serve.toml"

glm serve nano --port "$port" --no-page --feedback-url "$store" --config "$out/serve.toml" &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
until curl -sf "$url/health" > /dev/null; do sleep 0.5; kill -0 $server; done

python recipes/feedback/ratings.py --url "$url" --heldout "$out/heldout.jsonl"
glm data feedback --url "$store" --to "$out/pairs.jsonl"
glm reward --init-from nano --data.pairs "$out/pairs.jsonl" --data.heldout "$out/heldout.jsonl" --train.out "$out/reward" \
    --train.steps 60 --train.save-every 30 --train.eval-every 30 --train.seq-len 256 --train.batch-rows 16 --train.accumulation 2 --optimizer.name adamw --optimizer.lr 2e-4
glm dpo --init-from nano --data.pairs "$out/pairs.jsonl" --train.out "$out/dpo" --train.steps 40 --train.save-every 40 \
    --train.seq-len 256 --train.batch-rows 16 --train.accumulation 2 --optimizer.name adamw --optimizer.lr 1e-4
python recipes/feedback/compare.py nano "$out/dpo/model" "$out/reward/model" "$out/heldout.jsonl" --draws 4

admin() { curl -sf "$url$1" -H "Authorization: Bearer $key" -H 'Content-Type: application/json' "${@:2}"; echo; }
admin /v1/versions -d "{\"model\": \"$(realpath "$out/dpo/model")\", \"share\": 0.5}"
for number in 1 2 3 4 5 6 7 8; do
    curl -sf "$url/v1/chat/completions" -H 'Content-Type: application/json' \
        -d "{\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}], \"seed\": $number, \"max_tokens\": 24}" |
        python -c 'import json, sys; reply = json.load(sys.stdin); print(reply["system_fingerprint"], reply["choices"][0]["message"]["content"])'
done
admin /v1/versions
admin /v1/versions/verdict -d '{"keep": true}'
