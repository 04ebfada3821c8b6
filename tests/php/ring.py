"""Ten million calls through the ring, a reader beside them: no torn record, and what was lost is
counted exactly."""

import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(tally, php, so, trace):
    crate = HERE.parent.parent / "src/crates/trace-layout"
    made = subprocess.run(["cargo", "build", "--quiet", "--release", "--example", "drain", "--target-dir",
                           HERE.parent.parent / "target/php-ext"], cwd=crate, capture_output=True, text=True)
    if made.returncode:
        return tally.add("ring: ten million calls", "fail", made.stderr[-1000:])
    drain = next(Path(HERE.parent.parent / "target/php-ext").glob("**/release/examples/drain"))
    script = f"""
        require '{HERE}/phpt/trace.inc';
        function f($n) {{ return $n; }}
        t_on(ON);
        $drain = proc_open(['{drain}', t_file()], [1 => ['pipe', 'w']], $pipes);
        fgets($pipes[1]);
        for ($i = 0; $i < 10000000; $i++) f($i);
        t_off();
        echo stream_get_contents($pipes[1]), t_header()['head'], "\\n";
    """
    done = subprocess.run([php, "-n", "-d", "extension=posix", "-d", f"extension={so}", "-d", f"nbguard.directory={trace}",
                           "-r", script], capture_output=True, text=True)
    try:
        read, lost, bad, head = (int(word) for word in done.stdout.split())
    except ValueError:
        return tally.add("ring: ten million calls", "fail", done.stdout + done.stderr)
    text = f"{read} read, {lost} lost, {bad} bad, {head} written"
    passed = bad == 0 and read + lost == head and head > 20_000_000 and read > 0
    tally.add("ring: ten million calls", "pass" if passed else "fail", text)
