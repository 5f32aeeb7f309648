"""The drill that the runner exists for, with a real database: dumped, broken by an import, brought back."""

from __future__ import annotations

import uuid

import pytest

from runsdeploy.jobs.staging.snapshot import damage

pytestmark = pytest.mark.xdist_group("postgres")

FINGERPRINT = "SELECT count(*), md5(string_agg(id || name, ',' ORDER BY id)) FROM person"
SPOIL = """BEGIN; DELETE FROM person WHERE id % 3 = 0; UPDATE person SET name = 'x' WHERE id < 50; COMMIT"""
KINDS = {
    "default": None,
    "with --clean": (["--clean", "--if-exists"], "psql"),
    "custom": (["--format=custom"], "pg_restore"),
}


def loading(kind, cluster):
    """Return the command of a catalogue that loads a snapshot."""
    program = [str(cluster.bin / kind), f"--dbname={cluster.address}"]
    if kind == "psql":
        words = ["-X", "--quiet", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-f", "{crontab.SNAPSHOT_LORA}"]
    else:
        words = ["--clean", "--if-exists", "--single-transaction", "{crontab.SNAPSHOT_LORA}"]
    return [*program, *words]


@pytest.fixture
def lora(system, cluster):
    """A system whose import breaks its database; the run dumps it, and a restore loads it."""
    cluster.fresh(f"d{uuid.uuid4().hex}")
    cluster.ask("CREATE TABLE person (id int PRIMARY KEY, name text)")
    cluster.ask("INSERT INTO person SELECT n, 'navn æøå ' || n FROM generate_series(1, 1000) n")
    psql = [str(cluster.bin / "psql"), *cluster.client, "-X", "-v", "ON_ERROR_STOP=1"]
    system.work = {
        "name": "import",
        "stage": "imports",
        "enabled_by": "RUN_IMPORT",
        "command": [*psql, "-c", SPOIL, "-c", "SELECT 1/0"],
    }
    system.write_catalogue(system.work)
    system.snapshot.unlink()
    system.write_settings(RUN_IMPORT=True, SNAPSHOT_DATABASE=cluster.address)
    return system


@pytest.mark.parametrize("kind", KINDS)
def test_J27_a_database_that_an_import_broke_comes_back_from_the_nights_backup(kind, lora, cluster):
    """N5, N6: dumped by the run itself before the copies, by default or by the catalogue."""
    before = cluster.ask(FINGERPRINT)
    if KINDS[kind]:
        words, program = KINDS[kind]
        dump = [str(cluster.bin / "pg_dump"), *words, "--file={crontab.SNAPSHOT_LORA}", f"--dbname={cluster.address}"]
        around = {"copies": {"before": [dump]}, "restore": {"after": [loading(program, cluster)]}}
        lora.write_catalogue(lora.work, **around)
        lora.write_settings(SNAPSHOT_DATABASE=None)
    night = lora.run("run")
    assert night.returncode == 1, night.stdout
    assert "imports `import`: failed(1)" in night.stdout
    assert "division by zero" in night.stdout
    assert cluster.ask(FINGERPRINT) != before
    lora.snapshot.write_text("overwritten by a dump of the broken state\n")

    looked = lora.run("restore", "latest")
    assert looked.returncode == 0
    assert f"replace  {lora.snapshot}" in looked.stdout
    assert cluster.ask(FINGERPRINT) != before

    done = lora.run("restore", "latest", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all were read back and compared" in done.stdout
    assert cluster.ask(FINGERPRINT) == before


@pytest.mark.parametrize(
    "words", [(), ("--format=custom",), ("--format=custom", "--compress=0"), ("--format=plain", "-Z5")]
)
def test_J11_a_dump_that_was_cut_short_is_no_backup_and_nothing_is_imported(words, lora, cluster):
    """N8: told by the file's own bytes, without a switch."""
    lora.write_settings(SNAPSHOT_DATABASE=None)
    cluster.ask("CREATE TABLE second (id int); INSERT INTO second SELECT generate_series(1, 5000)")
    cluster.ask("SELECT lo_from_bytea(0, 'a large object')")
    cluster.dump(lora.snapshot, *words)
    whole = lora.snapshot.read_bytes()
    before = cluster.ask(FINGERPRINT)
    for number in range(1, 100):
        lora.snapshot.write_bytes(whole[: len(whole) * number // 100])
        assert "cut off" in damage(str(lora.snapshot), "x", strict=False), number
    lora.snapshot.write_bytes(whole)
    assert not damage(str(lora.snapshot), "x", strict=True)
    lora.snapshot.write_bytes(whole[: len(whole) // 2])
    night = lora.run("run")
    assert night.returncode == 3
    assert "cut off" in night.stdout
    assert cluster.ask(FINGERPRINT) == before
    assert [path.name.partition("Z-")[2][7:] for path in lora.archives()] == ["cron-backup-failed.tar.gz"]


def test_J27_a_dump_that_fails_is_no_backup_and_nothing_is_imported(lora, cluster):
    """N5, N8: also when its message is in the place of the dump."""
    before = cluster.ask(FINGERPRINT)
    lora.write_settings(SNAPSHOT_DATABASE=cluster.address.replace("dbname=", "dbname=no_"))
    night = lora.run("run")
    assert night.returncode == 3
    assert "ended: failed (1)" in night.stdout
    assert "copies| pg_dump: error: " in night.stdout
    lora.write_settings(SNAPSHOT_DATABASE=None)
    lora.snapshot.write_text("pg_dump: error: connection to server failed: FATAL: no such database\n")
    night = lora.run("run")
    assert night.returncode == 3
    assert "has a message in place of a dump: pg_dump: error" in night.stdout
    assert cluster.ask(FINGERPRINT) == before


def test_J27_a_load_that_fails_leaves_the_restore_unfinished_until_it_passes_or_is_undone(lora, cluster):
    """N6, N7: a dump of `pg_dump` without options; the page's line empties the database, and `--continue` loads it."""
    before = cluster.ask(FINGERPRINT)
    cluster.dump(lora.snapshot)
    started = lora.root / "started"
    after = [["true"], loading("psql", cluster), ["touch", str(started)]]
    lora.write_catalogue(lora.work, restore={"after": after})
    lora.write_settings(SNAPSHOT_DATABASE=None)
    assert lora.run("run").returncode == 1
    broken = cluster.ask(FINGERPRINT)
    done = lora.run("restore", "latest", "--yes")
    assert done.returncode == 4
    assert 'relation "person" already exists' in done.stdout
    assert "the files are restored; not run: `touch " in done.stderr
    assert "`restore --continue`" in done.stderr
    assert (cluster.ask(FINGERPRINT), started.exists()) == (broken, False)

    assert "a restore is unfinished" in lora.run("status").stdout
    assert lora.run("run").returncode == 4
    assert lora.run("restore", "latest", "--yes").returncode == 4
    assert lora.run("restore", "--continue").returncode == 4
    name = cluster.database
    cluster.fresh(name)
    done = lora.run("restore", "--continue")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs: true" not in done.stdout
    assert (cluster.ask(FINGERPRINT), started.exists()) == (before, True)
    assert lora.run("run").returncode == 1


def test_J27_after_an_import_made_a_view_of_a_table_the_database_is_emptied_and_loaded(lora, cluster):
    """N6: `--clean` cannot drop what the import hung something on."""
    before = cluster.ask(FINGERPRINT)
    assert lora.run("run").returncode == 1
    cluster.ask("CREATE VIEW adults AS SELECT * FROM person")
    done = lora.run("restore", "latest", "--yes")
    assert done.returncode == 4
    assert "other objects depend on it" in done.stdout
    assert cluster.ask("SELECT count(*) FROM adults") == cluster.ask("SELECT count(*) FROM person")
    cluster.fresh(cluster.database)
    assert lora.run("restore", "--continue").returncode == 0
    assert cluster.ask(FINGERPRINT) == before
