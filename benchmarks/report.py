#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the report from what reformer_benchmarks measured: report.json, tables.md and plots.

Called by run.sh. The fields of report.json and how tables are derived: docs/benchmarks.md. Needs
nothing but Python's standard library, and gnuplot for the plots.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# ---- records ------------------------------------------------------------------------------------


def record_of(entry):
    """One case, from Google Benchmark's entry `operation/variant/pass/size:value/...`."""
    name = re.sub(r"/(manual_time|iterations:\d+|min_time:[\d.]+)", "", entry["name"])
    operation, variant, phase, *sizes = name.split("/")
    numbers = {key: int(value) for key, value in (size.split(":") for size in sizes)}
    record = {
        "operation": operation,
        "variant": variant,
        "pass": phase,
        "threads": numbers.pop("threads"),
        "sizes": numbers,
    }
    if entry.get("error_occurred"):
        record["error"] = entry["error_message"]
    elif "seconds" not in entry:
        record["skipped"] = entry.get("label", "").removeprefix("skipped: ")
    else:
        for field, value in entry.items():
            if field in NUMBERS or field.endswith("_bytes"):
                record[field] = int(value) if field.endswith("_bytes") or field == "runs" else value
    return record


WITH_OPTIMIZER = "forward+backward+optimizer"
NUMBERS = {
    "seconds",
    "seconds_least",
    "seconds_most",
    "runs",
    "flop",
    "recomputed_flop",
    "fma_peak",
    "fma_rate_beside",
    "bandwidth",
    "of_peak",
    "of_rate_beside",
    "of_bandwidth",
}


def with_best_peak(records):
    """The FMA peak is measured again before each case: the best for its number of threads counts."""
    for record in records:
        if "seconds" in record:
            same = (r for r in records if r["threads"] == record["threads"])
            record["fma_peak"] = max(r.get("fma_peak", 0) for r in same)
            work = record["flop"] + record["recomputed_flop"]
            record["of_peak"] = work / record["seconds"] / record["fma_peak"]
    return records


def output_of(*command):
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout.strip()


def first_match(path, pattern):
    try:
        match = re.search(pattern, pathlib.Path(path).read_text(), re.MULTILINE)
    except OSError:
        return "unknown"
    return match.group(1).strip() if match else "unknown"


def commit():
    revision = output_of("git", "rev-parse", "--short=12", "HEAD")
    changes = output_of("git", "status", "--porcelain", "--", ".", ":!docs")
    return (revision + (" with changes" if changes else "")) or "unknown"


def flags_of(build):
    """The compiler's flags, as the build used them, without folders and files."""
    commands = json.loads((build / "compile_commands.json").read_text())
    words = next(c for c in commands if c["file"].endswith("training_step_benchmark.cpp"))
    words = words["command"].split()[1:]
    kept, skip = [], False
    for word in words:
        if skip or word in ("-o", "-c", "-isystem", "-MF", "-MT"):
            skip = not skip
        elif not word.startswith(("-I", "-M", "-W", "-D")) or word == "-DNDEBUG":
            kept.append(word)
    return " ".join(kept)


def report_of(measured, build, command):
    context = measured["context"]
    return {
        "format": 1,
        "command": command,
        "date": context["date"],
        "commit": commit(),
        "version": context["version"],
        "machine": {
            "processor": first_match("/proc/cpuinfo", r"^model name\s*:\s*(.*)$"),
            "processors": context["num_cpus"],
            "memory": first_match("/proc/meminfo", r"^MemTotal:\s*(.*)$"),
            "system": first_match("/etc/os-release", r'^PRETTY_NAME="?([^"]*)"?$'),
            "kernel": platform.release(),
            "vector": context["vector"],
        },
        "build": {
            "compiler": context["compiler"],
            "flags": flags_of(build),
            "eigen": context["eigen"],
            "threads": int(context["threads"]),
        },
        "records": [record_of(entry) for entry in measured["benchmarks"]],
    }


def added_to(old, new):
    """The new report with what the old one has of other cases."""
    for what, before, now in (
        ("commit", old["commit"], new["commit"]),
        ("build", old["build"], new["build"]),
        ("machine", old["machine"], new["machine"]),
    ):
        if before != now:
            sys.exit(f"error: --add: {what} is {now}, but the report there has {before}")

    def name(record):
        return [record[key] for key in ("operation", "variant", "pass", "threads", "sizes")]

    measured = [name(record) for record in new["records"]]
    kept = [record for record in old["records"] if name(record) not in measured]
    records = kept + new["records"]
    records.sort(key=lambda record: record["operation"])
    return {**new, "command": f"{old['command']}\n{new['command']}", "records": records}


# ---- choosing records ---------------------------------------------------------------------------


def value(record, key):
    return record["sizes"].get(key, record.get(key))


def select(records, **wanted):
    """Records that were measured and have these fields or sizes."""
    return [
        r for r in records if "seconds" in r and all(value(r, k) == v for k, v in wanted.items())
    ]


def series(records, over, least=2):
    """Groups of records that differ in `over` only, each sorted by it; the largest first."""
    groups = {}
    for record in records:
        fixed = {**record["sizes"], "threads": record["threads"], "variant": record["variant"]}
        fixed |= {"operation": record["operation"], "pass": record["pass"]}
        fixed.pop(over, None)
        groups.setdefault(tuple(sorted(fixed.items())), []).append(record)
    groups = [sorted(g, key=lambda r: value(r, over)) for g in groups.values() if len(g) >= least]
    return sorted(groups, key=lambda g: (-len(g), -sum(r["seconds"] for r in g)))


def is_tiny(record):
    """A case of --check, whose figures mean little."""
    return record["sizes"]["length"] < 1024


def tokens(record):
    return record["sizes"]["length"] * record["sizes"]["batch"]


# ---- numbers in words ---------------------------------------------------------------------------


def seconds_text(seconds):
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}" if seconds < 100 else f"{seconds:.0f} s"
    return ""


def bytes_text(count):
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} B" if count else "–"


def percent(fraction):
    return f"{100 * fraction:.1f} %"


def rounds_text(rounds):
    return f"{rounds} round" + "s" * (rounds > 1)


def sizes_text(record):
    return ", ".join(f"{key} {number:,}" for key, number in record["sizes"].items())


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n"


# ---- memory of a step ---------------------------------------------------------------------------


def counted_by_floor(record):
    """Residual halves, bucket ids and scratch, over the floor 4 B T D."""
    above = record["residual_bytes"] + record["bucket_bytes"] + record["scratch_bytes"]
    return above / record["residual_bytes"]


def resident_above(record):
    """Resident peak of the case above what was resident before it and above the parameters."""
    known = ("resident_before_bytes", "parameter_bytes", "gradient_bytes", "optimizer_bytes")
    return record["resident_peak_bytes"] - sum(record[field] for field in known)


def resident_by_floor(record):
    return resident_above(record) / record["residual_bytes"]


# ---- sections of tables.md ----------------------------------------------------------------------


def operation_sections(records):
    for operation in dict.fromkeys(r["operation"] for r in records):
        mine = select(records, operation=operation)
        rows = [
            [
                r["variant"],
                r["pass"],
                sizes_text(r),
                r["threads"],
                seconds_text(r["seconds"]),
                f"{(r['flop'] + r['recomputed_flop']) / r['seconds'] * 1e-9:.1f}",
                percent(r["of_peak"]),
                percent(r["of_rate_beside"]),
                percent(r["of_bandwidth"]),
                bytes_text(r["scratch_bytes"]),
                bytes_text(r["resident_peak_bytes"]),
            ]
            for r in mine
        ]
        header = ["variant", "pass", "sizes", "threads", "time", "GFLOP/s", "of FMA peak", "beside"]
        header += ["floor, of bandwidth", "scratch", "resident peak"]
        if rows:
            yield f"### {operation}\n\n" + table(header, rows)


def training_steps(records):
    """Steps on all threads, forward and backward; with optimizer where that is all there is."""
    steps = select(records, operation="training_step", **{"pass": "forward+backward"})
    known = [(s["variant"], s["threads"], s["sizes"]) for s in steps]
    full = select(records, operation="training_step", **{"pass": WITH_OPTIMIZER})
    for step in full:
        if (step["variant"], step["threads"], step["sizes"]) not in known:
            steps.append({**step, "pass": "forward+backward", "note": " (with optimizer)"})
    most = max((s["threads"] for s in steps), default=1)
    steps = [s for s in steps if s["threads"] == most]
    return [s for s in steps if not is_tiny(s)] or steps


def steps_over(records, over, title):
    steps = [r for r in training_steps(records) if over in r["sizes"]]
    groups = series(steps, over)
    if over != "depth":  # one layer is for the comparison at fixed tokens
        groups = [g for g in groups if g[0]["sizes"]["depth"] > 1] or groups
    for group in [g for g in groups if len(g) > 2] or groups:
        fixed = {k: v for k, v in group[0]["sizes"].items() if k != over}
        first = group[0]
        rows = [
            [
                f"{value(r, over):,}" + r.get("note", ""),
                seconds_text(r["seconds"]),
                f"{r['seconds'] / tokens(r) * 1e6:.1f}",
                percent(r["of_peak"]),
                percent(r["of_rate_beside"]),
                percent(r["of_peak"] * r["flop"] / (r["flop"] + r["recomputed_flop"])),
                bytes_text(r["residual_bytes"]),
                bytes_text(r["bucket_bytes"]),
                bytes_text(r["scratch_bytes"]),
                f"{counted_by_floor(r):.3f}",
                f"{resident_by_floor(r):.3f}",
                bytes_text(r["resident_peak_bytes"]),
            ]
            for r in group
        ]
        header = [over, "time", "µs per token", "of FMA peak", "beside", "useful", "floor"]
        header += ["bucket ids", "scratch", "counted / floor", "resident / floor", "resident peak"]
        text = ", ".join(f"{k} {v:,}" for k, v in fixed.items())
        yield f"#### {title}: {first['variant']}, {text}\n\n" + table(header, rows)


def thread_section(records):
    rows = []
    for group in series([r for r in records if "seconds" in r], "threads"):
        one, many = group[0], group[-1]
        if one["threads"] == 1:
            rows.append(
                [
                    f"{one['operation']}, {one['variant']}",
                    one["pass"],
                    sizes_text(one),
                    seconds_text(one["seconds"]),
                    f"{seconds_text(many['seconds'])} on {many['threads']}",
                    f"{one['seconds'] / many['seconds']:.2f}",
                ]
            )
    header = ["operation", "pass", "sizes", "one thread", "all threads", "times as fast"]
    return "### One thread and all threads\n\n" + table(header, rows) if rows else ""


def fixed_token_groups(records):
    """The paper's figure 5: {(operation, tokens): {length: {rounds or 'exact': record}}}."""
    groups = {}
    for record in select(records, **{"pass": "forward+backward"}):
        if record["operation"] not in ("attention", "training_step"):
            continue
        if record["variant"] not in ("lsh", "exact") or value(record, "depth") not in (None, 1):
            continue
        others = {
            k: v for k, v in record["sizes"].items() if k not in ("length", "batch", "rounds")
        }
        key = (record["operation"], tokens(record), record["threads"], tuple(others.items()))
        kind = record["sizes"].get("rounds", "exact")
        groups.setdefault(key, {}).setdefault(record["sizes"]["length"], {})[kind] = record
    if any(key[1] >= 1024 for key in groups):  # without the cases of --check
        groups = {key: lengths for key, lengths in groups.items() if key[1] >= 1024}
    for key, lengths in sorted(groups.items()):
        kinds = set.union(*(set(kinds) for kinds in lengths.values()))
        if len(lengths) > 1 and "exact" in kinds and len(kinds) > 2:
            yield key[0], key[1], dict(sorted(lengths.items())), sorted(kinds - {"exact"})


def crossover(lengths, rounds):
    """From which length LSH is faster than exact attention, in words."""
    ratios = [
        (length, kinds[rounds]["seconds"] / kinds["exact"]["seconds"])
        for length, kinds in lengths.items()
        if rounds in kinds and "exact" in kinds
    ]
    if not ratios:
        return "not measured"
    slower = [i for i, (_, ratio) in enumerate(ratios) if ratio >= 1]
    if not slower:
        return f"below {ratios[0][0]:,}"
    if slower[-1] == len(ratios) - 1:
        return f"above {ratios[-1][0]:,}"
    (a, at_a), (b, at_b) = ratios[slower[-1]], ratios[slower[-1] + 1]
    part = math.log(at_a) / (math.log(at_a) - math.log(at_b))  # where the ratio is 1, on log axes
    return f"{a * (b / a) ** part:,.0f}"


def fixed_token_sections(records):
    for operation, count, lengths, rounds in fixed_token_groups(records):
        columns = ["exact", *rounds]
        rows = [
            [f"{length:,}"]
            + [seconds_text(kinds[c]["seconds"]) if c in kinds else "" for c in columns]
            for length, kinds in lengths.items()
        ]
        header = ["length", "exact"] + [f"LSH, {rounds_text(r)}" for r in rounds]
        name = "one layer, whole step" if operation == "training_step" else "attention alone"
        sentence = "; ".join(f"{rounds_text(r)}: {crossover(lengths, r)}" for r in rounds)
        yield (
            f"#### {count:,} tokens a step, {name}, forward and backward\n\n"
            + table(header, rows)
            + f"\nLSH attention is faster than exact attention from this length on: {sentence}.\n"
        )


def hashing_shares(records):
    """Hashing and sorting as a share of the LSH attention branch: rows of numbers by length."""
    for hashing in select(records, operation="hashing", variant="reformer"):
        same = {"threads": hashing["threads"], "batch": 1}
        same |= {key: hashing["sizes"][key] for key in ("length", "rounds")}
        sorting = select(records, operation="sorting", variant="reformer", **same)
        branch = {
            r["pass"]: r for r in select(records, operation="self_attention", variant="lsh", **same)
        }
        if sorting and len(branch) == 2:
            h, s = hashing["seconds"], sorting[0]["seconds"]
            f, fb = (branch[p]["seconds"] for p in ("forward", "forward+backward"))
            # The walk back uses the bucket ids that the forward pass saved, and sorts again.
            yield hashing["sizes"]["length"], h, s, f, fb, (h + s) / f, (h + 2 * s) / fb


def hashing_section(records):
    rows = [
        [f"{length:,}", *map(seconds_text, times), percent(forward), percent(both)]
        for length, *times, forward, both in hashing_shares(records)
    ]
    header = ["length", "hashing", "sorting", "branch forward", "branch forward + backward"]
    header += ["hashing + sorting, of forward", "of forward + backward"]
    title = "### Hashing and sorting in the LSH attention branch\n\n"
    return title + table(header, rows) if rows else ""


# ---- targets ------------------------------------------------------------------------------------


def targets(records):
    """(what, target, measured, whether it is met) of the project's aims; None: not measured."""
    model = {"operation": "training_step", "variant": "lsh", "width": 512, "rounds": 4, "batch": 1}
    gradients = {**model, "pass": "forward+backward"}
    threads = max((r["threads"] for r in records), default=1)

    def step(length, depth=6, count=threads, **more):
        found = select(records, **{**gradients, **more}, length=length, depth=depth, threads=count)
        return found[0] if found else None

    def row(what, aim, found, number, text, limit, at_least=False):
        if not found or any(f is None for f in found):
            return what, aim, None, None
        measured = number(*found)
        return what, aim, text(measured), measured >= limit if at_least else measured <= limit

    def ratio(x):
        return f"{x:.2f}"

    for length in (4096, 16384, 65536):
        what = f"training step, length {length:,}: of FMA peak, recomputation counted"
        yield row(
            what, "≥ 75 %", [step(length)], lambda r: r["of_peak"], percent, 0.75, at_least=True
        )
        yield row(
            f"the same, length {length:,}, of the FMA rate measured beside its runs",
            "≥ 75 %",
            [step(length)],
            lambda r: r["of_rate_beside"],
            percent,
            0.75,
            at_least=True,
        )
    if threads > 1:
        for length in (4096, 16384):
            yield row(
                f"training step, length {length:,}: {threads} threads against one",
                "≥ 1.9 times" if threads == 2 else "≥ 0.95 per thread",
                [step(length, count=1), step(length)],
                lambda one, all: one["seconds"] / all["seconds"],
                ratio,
                0.95 * threads,
                at_least=True,
            )
    for phase, limit in (("forward", 0.45), ("forward+backward", 1.5)):
        found = select(
            records,
            **{"operation": "attention", "variant": "lsh", "pass": phase},
            **{"length": 65536, "rounds": 4, "heads": 8, "batch": 1, "threads": threads},
        )
        what = f"LSH attention alone, length 65,536, {phase}"
        yield row(what, f"≤ {limit} s", found, lambda r: r["seconds"], seconds_text, limit)
    for length, limit in ((4096, 1.6), (16384, 1.25), (65536, 1.25), (262144, 1.25)):
        what = f"memory of a step above parameters over the floor, length {length:,}"
        yield row(
            what, f"≤ {limit} times", [step(length)], resident_by_floor, lambda x: f"{x:.3f}", limit
        )
    for depth in (1, 24, 96):
        what = f"the same without bucket ids, length 4,096, depth {depth} against 6"
        yield row(
            what,
            "within 2 %",
            [step(4096, depth), step(4096)],
            lambda a, b: abs(
                (a["residual_bytes"] + a["scratch_bytes"])
                / (b["residual_bytes"] + b["scratch_bytes"])
                - 1
            ),
            percent,
            0.02,
        )
    million = 1 << 20
    full = {"pass": WITH_OPTIMIZER}
    yield row(
        "step with optimizer, length 1,048,576: resident peak",
        "< 12 GB",
        [step(million, **full)],
        lambda r: r["resident_peak_bytes"],
        bytes_text,
        12e9,
    )
    for length in (16384, 65536, 262144, million):
        same = full if length == million else {}
        yield row(
            f"time per token, length {length:,} against 4,096",
            "≤ 1.15 times",
            [step(length, **same), step(4096, **same)],
            lambda a, b: a["seconds"] / tokens(a) / (b["seconds"] / tokens(b)),
            ratio,
            1.15,
        )
    for length, *_, forward, both in hashing_shares(records):
        what = f"hashing and sorting, of the attention branch, length {length:,}"
        if length >= 1024:
            yield what + ", forward", "< 10 %", percent(forward), forward < 0.1
            yield what + ", forward + backward", "< 10 %", percent(both), both < 0.1


def target_section(records):
    marks = {True: "yes", False: "**no**", None: "not measured"}
    rows = [[what, aim, text or "", marks[met]] for what, aim, text, met in targets(records)]
    return "## Targets\n\n" + table(["", "target", "measured", "met"], rows)


# ---- plots --------------------------------------------------------------------------------------


def plot(path, title, x_label, y_label, curves, logarithmic="xy"):
    """Curves {name: [(x, y), ...]} as an SVG file."""
    lines = [
        'set terminal svg size 760,440 font "sans,12" background "white"',
        f'set output "{path}"',
        f'set title "{title}"',
        f'set xlabel "{x_label}"',
        f'set ylabel "{y_label}"',
        "set grid",
        "set key below",
        'set format x "%.0f"',
    ]
    if "x" in logarithmic:
        lines.append("set logscale x 2")
    if "y" in logarithmic:
        lines.append("set logscale y")
    else:
        lines.append("set yrange [0:*]")
    names = []
    for i, (name, points) in enumerate(curves.items()):
        lines += [f"$curve{i} << EOD", *(f"{x} {y}" for x, y in points), "EOD"]
        names.append(f'$curve{i} using 1:2 with linespoints lw 2 pt 7 ps 0.6 title "{name}"')
    lines.append("plot " + ", \\\n  ".join(names))
    script = "\n".join(lines) + "\n"
    subprocess.run(["gnuplot"], input=script, text=True, check=True)


def plots(records, folder):
    """Draws what there is data for; yields (file, caption)."""
    steps = training_steps(records)
    by_length = series(steps, "length")[:2]
    if by_length:
        curves = {
            ("LSH" if g[0]["variant"] == "lsh" else "exact"): [
                (value(r, "length"), r["seconds"] / tokens(r) * 1e6) for r in g
            ]
            for g in reversed(by_length)
        }
        yield "time_by_length.svg", "Time per token of a training step over length"
        plot(
            folder / "time_by_length.svg",
            "Time per token of a training step",
            "length",
            "microseconds",
            curves,
            logarithmic="x",
        )
        group = by_length[0]
        memory = {
            "resident, above parameters": [(value(r, "length"), resident_above(r)) for r in group],
            "counted: halves, ids, scratch": [
                (value(r, "length"), counted_by_floor(r) * r["residual_bytes"]) for r in group
            ],
            "floor 4 B T D": [(value(r, "length"), r["residual_bytes"]) for r in group],
        }
        memory = {k: [(x, y * 1e-6) for x, y in v if y > 0] for k, v in memory.items()}
        yield "memory_by_length.svg", "Memory of a training step over length"
        plot(
            folder / "memory_by_length.svg",
            "Memory of a training step above parameters and gradients",
            "length",
            "MB",
            memory,
        )
    by_depth = [g for g in series(steps, "depth") if g[0]["variant"] == "lsh"][:1]
    for group in by_depth:
        memory = {
            "halves and scratch": [
                (value(r, "depth"), (r["residual_bytes"] + r["scratch_bytes"]) * 1e-6)
                for r in group
            ],
            "the same with bucket ids": [
                (value(r, "depth"), counted_by_floor(r) * r["residual_bytes"] * 1e-6)
                for r in group
            ],
            "floor 4 B T D": [(value(r, "depth"), r["residual_bytes"] * 1e-6) for r in group],
        }
        yield "memory_by_depth.svg", "Memory of a training step over depth"
        plot(
            folder / "memory_by_depth.svg",
            "Counted memory of a training step above parameters and gradients",
            "layers",
            "MB",
            memory,
            logarithmic="",
        )
    for operation, count, lengths, rounds in fixed_token_groups(records):
        curves = {
            ("exact" if kind == "exact" else f"LSH, {rounds_text(kind)}"): [
                (length, kinds[kind]["seconds"]) for length, kinds in lengths.items() if kind in kinds
            ]
            for kind in ["exact", *rounds]
        }
        file = f"fixed_tokens_{operation}_{count}.svg"
        name = "one layer, whole step" if operation == "training_step" else "attention alone"
        yield file, f"{count:,} tokens a step, {name}"
        plot(folder / file, f"{count:,} tokens a step: {name}", "length", "seconds", curves)


# ---- the report ---------------------------------------------------------------------------------


def tables_of(report, figures):
    records = report["records"]
    machine, build = report["machine"], report["build"]
    peaks = {r["threads"]: (r["fma_peak"], r["bandwidth"]) for r in records if "seconds" in r}
    facts = [
        *(("command", "`" + line.replace("|", "\\|") + "`") for line in report["command"].split("\n")),
        ("commit", report["commit"]),
        ("date", report["date"]),
        ("processor", f"{machine['processor']}, {machine['processors']} visible"),
        ("memory", machine["memory"]),
        ("system", f"{machine['system']}, Linux {machine['kernel']}"),
        ("compiler", build["compiler"]),
        ("flags", f"`{build['flags']}`"),
        ("Eigen", f"{build['eigen']}, {machine['vector']}"),
    ]
    for threads, (peak, bandwidth) in sorted(peaks.items()):
        words = f"{peak * 1e-9:.0f} GFLOP/s, {bandwidth * 1e-9:.1f} GB/s"
        facts.append((f"FMA peak and bandwidth, {threads} thread{'s' * (threads > 1)}", words))
    parts = [
        "<!-- Made by benchmarks/run.sh; not to be edited. -->\n",
        "# Measurements\n",
        "How to read them: docs/benchmarks.md. Every figure is in report.json beside this file.\n",
        table(["", ""], facts),
        target_section(records),
    ]
    parts += [f"![{caption}]({file})\n" for file, caption in figures]
    steps = [
        *steps_over(records, "length", "Over length"),
        *steps_over(records, "depth", "Over depth"),
        *steps_over(records, "rounds", "Over hash rounds"),
        *steps_over(records, "width", "Over width"),
        *steps_over(records, "batch", "Over batch"),
    ]
    if steps:
        parts += ["## Training steps, forward and backward\n", *steps]
    fixed = list(fixed_token_sections(records))
    if fixed:
        parts += ["### The same number of tokens at every length\n", *fixed]
    parts += [hashing_section(records), thread_section(records)]
    parts += ["## All cases\n", *operation_sections(records)]
    missing = [r for r in records if "seconds" not in r]
    if missing:
        rows = [
            [r["operation"], r["variant"], r["pass"], sizes_text(r), r.get("error", r.get("skipped"))]
            for r in missing
        ]
        parts += ["## Not measured\n", table(["operation", "variant", "pass", "sizes", ""], rows)]
    return "\n".join(part for part in parts if part)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measured", type=pathlib.Path, required=True)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--command", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--add", action="store_true")
    options = parser.parse_args()

    report = report_of(json.loads(options.measured.read_text()), options.build, options.command)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "report.json"
    if options.add and path.exists():
        report = added_to(json.loads(path.read_text()), report)
    report["records"] = with_best_peak(report["records"])
    if path.exists():  # plots of another selection would stay
        for figure in json.loads(path.read_text()).get("figures", []):
            (options.out / pathlib.Path(figure).name).unlink(missing_ok=True)
    figures = list(plots(report["records"], options.out))
    report["figures"] = [file for file, _ in figures]
    (options.out / "tables.md").write_text(tables_of(report, figures))
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
