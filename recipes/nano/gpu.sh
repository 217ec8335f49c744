#!/usr/bin/env bash
# A larger nano on one CUDA GPU.
#   recipes/nano/gpu.sh pack               where the corpus is: pack it for a machine without network, below 64 MB
#   recipes/nano/gpu.sh                    there: train for 20 minutes, int4 weights, the device tests, glm bench
#   recipes/nano/gpu.sh --dry-run FOLDER   all of it on a CPU: a few steps of a tiny network on a few pages
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -d .venv ] && export PATH="$PWD/.venv/bin:$PATH"
WORK=runs/nano/gpu DEVICE=cuda MINUTES=${MINUTES:-20} PROBE="20 120" SHAPE="" PROMPT=512 LIMIT=16000000
PACKED=runs/nano/gpu-data.tar.xz

pack() { # FOLDER-WITH-CORPUS ARCHIVE: 16-bit ids, aligned as such
    tar -C "$1" -cf - corpus | xz --threads=0 --lzma2=preset=6,lc=0,lp=1,pb=1 > "$2.part"
    size=$(wc -c < "$2.part")
    [ "$size" -lt 64000000 ] || { echo "$2.part has $size bytes, more than 64 MB; lower caps in sources.toml" >&2; exit 1; }
    mv "$2.part" "$2"
    echo "$2: $size bytes"
}

case "${1:-}" in
    pack) pack runs/nano "$PACKED"; exit ;;
    --dry-run)
        WORK=${2:?--dry-run needs a folder} DEVICE=cpu MINUTES=0 PROBE="1 2" PROMPT=16
        PACKED=$WORK/data.tar.xz
        SHAPE="--model.layers 1 --model.hidden 64 --model.heads 1 --model.kv-heads 1 --model.ffn-hidden 64 --train.seq-len 64"
        SHAPE="$SHAPE --train.batch-rows 2 --train.eval-rows 1 --train.dtype float32 --train.no-compile"
        mkdir -p "$WORK/slice"
        python recipes/nano/tiny_corpus.py "$WORK/slice/corpus"
        pack "$WORK/slice" "$PACKED" ;;
    "") ;;
    *) echo "unknown argument: $1" >&2; exit 2 ;;
esac

if [ ! -d "$WORK/data" ]; then
    mkdir -p "$WORK/data.part"
    tar -C "$WORK/data.part" -xJf "$PACKED"
    mv "$WORK/data.part" "$WORK/data"
fi
train() { # NAME STEPS
    glm pretrain --config recipes/nano/gpu.toml --data.path "$WORK/data/corpus" --train.device "$DEVICE" $SHAPE \
        --train.out "$WORK/$1" --train.steps "$2"
}
seconds() { local start; start=$(date +%s); train "probe-$1" "$1" >&2; echo $(($(date +%s) - start)); }

if [ ! -f "$WORK/steps" ]; then # two short runs, so that start and compilation cancel out
    read -r few many <<< "$PROBE"
    short=$(seconds "$few") long=$(seconds "$many")
    spent=$((long > short ? long - short : 1))
    steps=$((MINUTES * 60 * (many - few) / spent))
    echo $((steps > many ? steps : many)) > "$WORK/steps"
fi
train pretrain "$(cat "$WORK/steps")"
[ -d "$WORK/int4" ] || glm quantize "$WORK/pretrain/model" "$WORK/int4" --bits 4
size=$(du -sb "$WORK/int4" | cut -f1)
[ "$size" -lt "$LIMIT" ] || { echo "$WORK/int4 has $size bytes, more than $LIMIT" >&2; exit 1; }
python -m pytest tests/device --device "$DEVICE" -p no:cacheprovider
for model in pretrain/model int4; do
    glm bench "$WORK/$model" --device "$DEVICE" --prompt-tokens "$PROMPT" --new-tokens "$((PROMPT / 4))" --json > "$WORK/bench-${model%%/*}.json"
done
echo "$WORK: $size bytes in int4, $(cat "$WORK/steps") steps"
