"""Parsing, composing, checking and running of command lines, with small configs."""

import json
import logging
import os
import pickle
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lightning_transfer import __version__
from lightning_transfer.cli import command_line, help_text, main
from lightning_transfer.cli.arguments import CommandLine
from lightning_transfer.experiments.run_folder import RunFolder
from lightning_transfer.utils.errors import UsageError

CONF = {
    "fit": """
# Train
# python -m lightning_transfer fit
defaults:
  - backbone: tiny
  - trainer: default
  - stage@stages.target: default
  - _self_
name: fit  # names the run folder
seed: 0
resume: false
extra: {}
hydra:
  job: {name: fit, chdir: false}
  run: {dir: "out/${name}"}
  sweep: {dir: "sweep/${name}", subdir: "${hydra.job.num}"}
""",
    "predict": """
# Label texts
# python -m lightning_transfer predict
ckpt: ???  # a run folder or a checkpoint file
text: null
data: {path: null}
hydra:
  job: {name: predict}
  run: {dir: .}
  output_subdir: null
""",
    "backbone/tiny": "name: tiny\n",
    "backbone/hub": "name: ???  # a hub id\n",
    "trainer/default": "max_epochs: 1\ndevices: 1\n",
    "stage/default": "defaults:\n  - /data@data: movies\n  - _self_\nepochs: 3\nskip: false\n",
    "data/movies": "# Movies\nbatch_size: 2\n",
    "data/news": "# News\nbatch_size: 3\n",
    "experiment/mine": (
        "# @package _global_\n# Mine\ndefaults:\n  - override /data@stages.target.data: news\n"
        "name: mine\n"
    ),
}


class Calls(list):
    """Fake command: records its calls and runs ``act``."""

    def __init__(self):
        super().__init__()
        self.act = lambda config: None

    def __call__(self, config):
        hydra = HydraConfig.get()
        seen = types.SimpleNamespace(
            config=config, argv=sys.argv[1:], folder=hydra.runtime.output_dir, run=hydra.run.dir
        )
        self.append(seen)
        return self.act(config)


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Run in an empty folder with small configs and commands that only record their calls."""
    for name, text in CONF.items():
        file = tmp_path / "conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.lstrip())
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(command_line, "_CONF", str(tmp_path / "conf"))
    monkeypatch.setattr(sys, "argv", ["/bin/lightning-transfer", "untouched"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    fake = types.ModuleType("fake_commands")
    fake.run = Calls()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_commands", fake)
    for command in command_line.COMMANDS:
        monkeypatch.setitem(command_line.COMMANDS, command, "fake_commands:run")
    root, own = logging.getLogger(), logging.getLogger("lightning_transfer")
    before = root.handlers[:], root.level
    yield fake.run
    own.setLevel(logging.NOTSET)
    for handler in set(root.handlers) - set(before[0]):
        handler.close()
    root.handlers[:], level = before
    root.setLevel(level)
    assert sys.argv == ["/bin/lightning-transfer", "untouched"]
    assert "HYDRA_FULL_ERROR" not in os.environ


@pytest.fixture
def real(calls, monkeypatch):
    """As ``calls``, with the shipped configs."""
    monkeypatch.setattr(command_line, "_CONF", "pkg://lightning_transfer.conf")
    return calls


def files():
    return sorted(str(path) for path in Path().rglob("*"))


# Command lines that run or show something


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands(arguments, capsys):
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "usage: python -m lightning_transfer COMMAND" in shown
    for command in command_line.COMMANDS:
        assert f"\n  {command} " in shown
    assert "--multirun" in shown


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lightning_transfer {__version__}\n"


@pytest.mark.parametrize("command", command_line.COMMANDS)
def test_help_of_a_command_shows_its_keys(command, capsys):
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    folder = help_text.conf_folder()
    assert help_text.first_comments(folder / f"{command}.yaml")[0] in shown
    assert f"Keys of {command} (key=value):" in shown


def test_help_shows_options_of_the_users_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "backbone").mkdir(parents=True)
    (tmp_path / "mine" / "backbone" / "own.yaml").write_text("# My own backbone\n")
    assert main(["fit", "--help", "--config-dir", "mine"]) == 0
    assert re.search(r"\n  own +\[mine\] My own backbone\n", capsys.readouterr().out)


def test_job_gets_the_composed_config_and_the_command_line_as_typed(calls):
    assert main(["fit", "+experiment=mine", "-v", "trainer.devices=2"]) == 0
    (call,) = calls
    assert call.config.trainer.devices == 2
    assert call.config.stages.target.data.batch_size == 3
    assert call.argv == ["fit", "+experiment=mine", "-v", "trainer.devices=2"]
    assert call.folder == os.path.abspath("out/mine")


def test_main_reads_the_arguments_of_the_process_by_default(calls, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lightning-transfer", "fit", "seed=3"])
    assert main() == 0
    assert calls[0].config.seed == 3
    monkeypatch.setattr(sys, "argv", ["/bin/lightning-transfer", "untouched"])


def test_relaunched_rank_runs_in_the_same_folder(calls):
    """Lightning appends these overrides to the command line of each rank that it starts."""
    assert main(["fit", "seed=1"]) == 0
    added = ['hydra.run.dir="out/fit"', "hydra.job.name=train_ddp_process_1"]
    assert main([*calls[0].argv, *added, "hydra.output_subdir=null"]) == 0
    assert calls[1].folder == calls[0].folder
    assert calls[1].config == calls[0].config


def test_ranks_of_a_sweep_job_run_this_job_alone(calls):
    """Lightning starts them with ``sys.argv``, which must not contain the whole sweep."""
    calls.act = lambda config: os.environ.update(LOCAL_RANK="0")
    assert main(["fit", "trainer.devices=2", "-m", "data@stages.target.data=movies,news"]) == 0
    assert [call.config.stages.target.data.batch_size for call in calls] == [2, 3]
    assert [call.run for call in calls] == [call.folder for call in calls]
    assert "LOCAL_RANK" not in os.environ
    jobs = list(calls)
    for job in jobs:
        assert main([*job.argv, f'hydra.run.dir="{job.run}"', "hydra.output_subdir=null"]) == 0
        assert calls[-1].config == job.config
        assert calls[-1].folder == job.folder
    assert len(calls) == 4


def test_pickled_job_returns_the_value_of_the_command(monkeypatch):
    fake = types.ModuleType("fake_commands")
    fake.score = lambda config: config / 2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_commands", fake)
    job = command_line.Job("fake_commands:score", CommandLine("fit"), ("fit",), verbose=False)
    assert pickle.loads(pickle.dumps(job))(3) == 1.5  # launchers send jobs to other processes


def test_modules_in_the_working_directory_can_be_imported(calls, monkeypatch):
    Path("users_own.py").write_text("value = 3\n")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", os.getcwd())])
    calls.act = lambda config: __import__("users_own").value / 1
    assert main(["fit"]) == 0


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--cfg", "job"], "max_epochs: 1"),
        (["-c", "job", "-p", "trainer"], "# @package trainer\nmax_epochs: 1\ndevices: 1\n"),
        (["--cfg", "hydra", "-p", "hydra.job"], "chdir: false"),
        (["-c", "job", "--resolve", "seed=7", "+extra.twice=${seed}"], "twice: 7"),
        (["seed=7", "-c", "job", "+experiment=mine"], "name: mine"),
        (["--info", "searchpath"], "| main "),
        (["--info", "defaults-tree"], "stage@stages.target: default"),
        (["--hydra-help"], "hydra/launcher: basic"),
        (["-sc", "install=bash"], "hydra_bash_completion lightning-transfer"),
    ],
)
def test_flags_that_show_something_run_no_job(calls, arguments, shown, capsys):
    assert main(["fit", *arguments]) == 0
    assert shown in capsys.readouterr().out
    assert not calls
    assert files() == []


def test_hydras_help_needs_no_command(calls, capsys):
    assert main(["--hydra-help"]) == 0
    assert "hydra/launcher" in capsys.readouterr().out


def test_config_dir_adds_options(calls, tmp_path):
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "own.yaml").write_text("batch_size: 9\n")
    assert main(["fit", "data@stages.target.data=own", "--config-dir", "../mine"]) == 0
    assert calls[0].config.stages.target.data.batch_size == 9


def test_config_path_is_relative_to_the_working_directory(calls, tmp_path):
    (tmp_path / "cwd" / "own").mkdir()
    (tmp_path / "cwd" / "own" / "main.yaml").write_text(
        f"hydra:\n  searchpath: ['{tmp_path / 'conf'}']\ndefaults: [backbone: tiny, _self_]\nx: 1\n"
    )
    assert main(["fit", "--config-path", "own", "--config-name", "main"]) == 0
    assert calls[0].config == {"backbone": {"name": "tiny"}, "x": 1}


def test_rerun_of_a_pickled_job(calls):
    name = "hydra.experimental.callbacks.PickleJobInfoCallback"
    assert main(["fit", "seed=5", f"+hydra.callbacks.keep._target_={name}"]) == 0
    with pytest.warns(UserWarning, match="Experimental rerun"):
        assert main(["fit", "--experimental-rerun", "out/fit/.hydra/config.pickle"]) == 0
    assert calls[1].config == calls[0].config


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("I love this movie!", "I love this movie!"),
        ("Well, it's (almost) 5 = 5", "Well, it's (almost) 5 = 5"),
        ('She said "no" ${x}', 'She said "no" ${x}'),
        ("10", "10"),
        ("", ""),
        ("null", None),
        ('"quoted, by hand"', "quoted, by hand"),
        ("[one,two]", ["one", "two"]),
    ],
)
def test_text_to_predict_needs_no_quotes(calls, given, text):
    assert main(["predict", "ckpt=runs/epoch=3-step(1).ckpt", f"text={given}"]) == 0
    assert calls[0].config.text == text
    assert calls[0].config.ckpt == "runs/epoch=3-step(1).ckpt"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("lightning-transfer fit back", "backbone."),
        ("lightning-transfer fit -v backbone=", "backbone=hub backbone=tiny"),
        ("lightning-transfer fit stages.target.e", "stages.target.epochs="),
        ("lightning-transfer pre", "predict"),
    ],
)
def test_tab_completion(calls, typed, expected, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", typed)
    monkeypatch.setenv("COMP_POINT", str(len(typed)))
    assert main(["-sc", "query=bash"]) == 0
    assert expected in capsys.readouterr().out


# Wrong command lines: exit code 2, the closest names, and no file is changed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fitt"], "unknown command 'fitt'; did you mean fit?"),
        (["fit", "--mutlirun"], "unknown flag '--mutlirun'; did you mean --multirun"),
        (
            ["fit", "max_epoch=3"],
            "'max_epoch' in 'max_epoch=3'; did you mean trainer.max_epochs=3?",
        ),
        (
            ["fit", "stages.target.data.batchsize=3"],
            "did you mean stages.target.data.batch_size=3?",
        ),
        (["fit", "batchsize=3", "epoch=3"], "unknown key 'batchsize'"),
        (["fit", "~trainer.devicez"], "did you mean ~trainer.devices?"),
        (["fit", "trainer.precision=16"], "To add a new key, use +trainer.precision=16"),
        (
            ["fit", "data@stages.target.data=moviez"],
            "unknown option 'moviez' of group 'data' in 'data@stages.target.data=moviez'; did you "
            "mean data@stages.target.data=movies? Options: movies, news",
        ),
        (["fit", "seed=1", "backbone=hubb"], "did you mean backbone=hub? Options: hub, tiny"),
        (
            ["fit", "-m", "data@stages.target.data=movies,newz"],
            "unknown option 'newz' of group 'data'",
        ),
        (["fit", "-m", "epoch=1,2"], "'epoch' in 'epoch=1'; did you mean stages.target.epochs"),
        (["fit", "-m", "backbone=glob(x*)"], "backbone=glob(x*) matches no option"),
        (
            ["fit", "experiment=mine"],
            "'experiment' is not in this config; add it with +experiment=mine. Options: mine",
        ),
        (
            ["fit", "+experiment=mien"],
            "unknown option 'mien' of group 'experiment' in '+experiment=mien'; did you mean "
            "+experiment=mine?",
        ),
        (
            ["fit", "trainer={}"],
            "trainer={} removes nothing because Hydra merges mappings; use '~trainer.max_epochs'",
        ),
        (
            ["fit", "+experimant=mine"],
            "'experimant' in '+experimant=mine'; did you mean +experiment=mine?",
        ),
        (["fit", "expriment=mine"], "did you mean +experiment=mine?"),
        (["fit", "data=news"], "'data' in 'data=news'; did you mean data@stages.target.data=news?"),
        (["fit", "data@stages.targt.data=news"], "did you mean data@stages.target.data=news?"),
        (["fit", "dat@stages.target.data=news"], "did you mean data@stages.target.data=news?"),
        (["fit", "mine"], "'mine' is neither a flag nor an override key=value"),
        (["fit", "seed=1,2"], "Ambiguous value for argument 'seed=1,2'"),
        (["fit", "name=[a"], "cannot parse 'name=[a'; quote the value: 'name=\"[a\"'"),
        (["fit", "+seed=1"], "An item is already at 'seed'"),
        (["fit", "seed.x=1"], "seed.x=1"),
        (["fit", "name=${nosuch}"], "nosuch"),
        (["fit", "-c", "job", "-p", "trainr"], "unknown key 'trainr'; did you mean trainer?"),
        (["fit", "-c", "job", "max_epoch=3"], "did you mean trainer.max_epochs=3?"),
        (["fit", "--info", "config", "max_epoch=3"], "did you mean trainer.max_epochs=3?"),
        (["fit", "-c", "job", "+experimant=mine"], "did you mean +experiment=mine?"),
        (["fit", "-m", "-c", "job"], "Only one of --run, --multirun, --cfg"),
        (["fit", "--resolve"], "--resolve flag can only be used"),
        (
            ["fit", "--config-dir", "nosuch"],
            "--config-dir must be an existing folder, got 'nosuch'",
        ),
        (["fit", "--config-path", "nosuch"], "nosuch"),
        (["fit", "-cn", "fitt"], "config 'fitt'; did you mean fit? Configs: fit, predict"),
        (["predict"], "predict requires ckpt=… (a run folder or a checkpoint file)"),
        (["fit", "backbone=hub"], "fit requires backbone.name=… (a hub id)"),
        (["fit", "+hydra.callbacks.x._target_=os.system"], "callbacks.x: os.system has no return"),
    ],
)
def test_wrong_command_line_suggests_a_correction_and_changes_no_file(
    calls, arguments, message, capsys
):
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert not calls
    assert files() == []


def test_error_in_the_users_config_names_the_override_that_selects_it(calls, tmp_path, capsys):
    (tmp_path / "conf" / "experiment" / "broken.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data@stages.target.data: nosuch\n"
    )
    assert main(["fit", "+experiment=broken"]) == 2
    shown = capsys.readouterr().err
    assert "+experiment=broken: " in shown
    assert "Could not find 'data/nosuch'" in shown
    assert "movies" in shown
    assert files() == []


def test_run_folder_of_another_run_is_not_changed(calls, capsys, monkeypatch):
    composed = {}

    def act(config):
        composed.update(OmegaConf.to_container(config))
        RunFolder.open("out/fit", config=composed, resume=composed["resume"]).close()

    calls.act = act
    assert main(["fit", "seed=1"]) == 0
    before = {name: Path(name).read_bytes() for name in files() if Path(name).is_file()}

    def untouched():
        return before == {name: Path(name).read_bytes() for name in before}

    assert main(["fit", "seed=2"]) == 2
    assert "out/fit already contains a run; add resume=true" in capsys.readouterr().err
    assert main(["fit", "seed=2", "resume=true"]) == 2
    assert "seed: 1 in the folder, 2 now" in capsys.readouterr().err
    assert untouched()
    with RunFolder.open("out/fit", config={**composed, "resume": True}, resume=True):
        assert main(["fit", "seed=1", "resume=true"]) == 2
        assert f"process {os.getpid()} on" in capsys.readouterr().err
        monkeypatch.setenv("LOCAL_RANK", "1")
        calls.act = lambda config: None
        assert main(["fit", "seed=1", "hydra.output_subdir=null"]) == 0
        monkeypatch.delenv("LOCAL_RANK")
    assert len(calls) == 2
    calls.act = act
    assert main(["fit", "seed=1", "resume=true"]) == 0


def test_required_value_may_come_from_the_sweep(calls):
    assert main(["predict", "-m", "ckpt=a,b"]) == 0
    assert [call.config.ckpt for call in calls] == ["a", "b"]


def test_verbose_shows_the_traceback_of_a_wrong_command_line(calls, capsys):
    assert main(["fit", "-v", "max_epoch=3"]) == 2
    shown = capsys.readouterr().err
    assert "ConfigCompositionException" in shown
    assert "did you mean trainer.max_epochs=3?" in shown


def test_errors_with_the_shipped_configs_suggest_a_correction(real, capsys):
    assert main(["fit", "max_epoch=3"]) == 2
    assert "did you mean trainer.max_epochs=3?" in capsys.readouterr().err
    assert main(["fit", "stages.target.data.batchsize=3"]) == 2
    assert "did you mean stages.target.data.batch_size=3?" in capsys.readouterr().err
    assert main(["predict"]) == 2
    assert "predict requires ckpt=…" in capsys.readouterr().err
    assert files() == []


@pytest.mark.parametrize("command", ["fit", "fetch", "list", "predict", "test", "validate"])
def test_shipped_commands_run(real, command):
    overrides = ["ckpt=x"] if command in ("predict", "test", "validate") else []
    assert main([command, *overrides]) == 0
    assert len(real) == 1


# Errors in a job


def raising(error):
    def act(config):
        raise error

    return act


def test_users_mistake_in_a_job_is_printed_in_one_line(calls, capsys):
    calls.act = raising(ValueError("train_size must be >= 1, got 0"))
    assert main(["fit"]) == 1
    assert capsys.readouterr().err == (
        "error: train_size must be >= 1, got 0\n       (-v shows the traceback)\n"
    )


def test_verbose_shows_the_traceback_of_a_job(calls, capsys):
    calls.act = raising(ValueError("bad"))
    assert main(["-v", "fit"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert shown.endswith("error: bad\n")


def test_verbose_logs_for_debugging(calls, capsys):
    calls.act = lambda config: logging.getLogger("lightning_transfer.x").debug("a detail")
    assert main(["fit"]) == 0
    assert "a detail" not in capsys.readouterr().out
    assert main(["fit", "-v"]) == 0
    assert "a detail" in capsys.readouterr().out


def test_bug_in_a_job_is_printed_with_its_traceback(calls, capsys):
    calls.act = raising(KeyError("x"))
    assert main(["fit"]) == 1
    shown = capsys.readouterr().err
    assert "KeyError: 'x'" in shown
    assert "Traceback" in shown


def test_failing_jobs_of_a_sweep_are_named_and_the_others_run(calls, capsys):
    def act(config):
        if config.seed:
            raise ValueError(f"seed {config.seed}")

    calls.act = act
    assert main(["fit", "-m", "seed=0,1,2,0"]) == 1
    assert len(calls) == 4
    assert capsys.readouterr().err.splitlines() == [
        "error: job 1 (seed=1): seed 1",
        "       (-v shows the traceback)",
        "error: job 2 (seed=2): seed 2",
        "       (-v shows the traceback)",
    ]


def test_usage_error_of_a_job_is_exit_code_2(calls):
    calls.act = raising(UsageError("resume=true needs hydra.run.dir"))
    assert main(["fit"]) == 2


def test_ctrl_c_prints_one_line(calls, capsys):
    calls.act = raising(KeyboardInterrupt())
    assert main(["fit"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_ctrl_c_turned_into_an_exit_by_lightning_is_exit_code_130(calls, capsys):
    def act(config):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    calls.act = act
    assert main(["fit"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(("given", "code"), [(None, 0), (3, 3), ("stopped", 1)])
def test_exit_code_of_a_job_is_returned(calls, given, code, capsys):
    calls.act = lambda config: sys.exit(given)
    assert main(["fit"]) == code
    assert capsys.readouterr().err == ("stopped\n" if given == "stopped" else "")


# In a separate process


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


SCRIPT = Path(sys.executable).parent / "lightning-transfer"
HEAVY = "hydra omegaconf torch lightning transformers datasets rich numpy pandas".split()


def modules_after(*arguments):
    code = (
        "import json, sys; from lightning_transfer.cli import main; code = main(sys.argv[1:]);"
        "print(json.dumps([code, sorted({m.partition('.')[0] for m in sys.modules})]))"
    )
    done = run(sys.executable, "-c", code, *arguments)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return set(modules)


def test_help_imports_no_heavy_library():
    assert not modules_after("--help") & set(HEAVY)
    assert not modules_after("fit", "--help") & set(HEAVY)


def test_showing_the_config_imports_neither_torch_nor_lightning():
    assert not modules_after("fit", "--cfg", "job") & {"torch", "lightning", "transformers"}


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("--version",), ("fit", "--cfg", "job"), ("fit", "max_epoch=3"), ("fitt",)],
)
def test_script_and_module_print_the_same(arguments, tmp_path):
    if not SCRIPT.exists():
        pytest.skip("the package is not installed")
    module = run(sys.executable, "-m", "lightning_transfer", *arguments, cwd=tmp_path)
    script = run(str(SCRIPT), *arguments, cwd=tmp_path)
    assert module.returncode == script.returncode
    assert module.stdout.replace("python -m lightning_transfer", "P").replace(
        "lightning-transfer", "P"
    ) == script.stdout.replace("python -m lightning_transfer", "P").replace(
        "lightning-transfer", "P"
    )
    assert module.stderr == script.stderr
    assert list(tmp_path.iterdir()) == []


def test_closed_pipe_is_no_error(tmp_path):
    command = f"{sys.executable} -m lightning_transfer fit --cfg job | head -n 1"
    done = run("bash", "-c", command, cwd=tmp_path)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
