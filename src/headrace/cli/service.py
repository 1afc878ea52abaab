"""`headrace service`: the files with which systemd and launchd run a plant."""

from __future__ import annotations

import getpass
import os
import shutil
import sys
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

from headrace.cli.apps import home
from headrace.cli.paths import InputPath
from headrace.errors import PlanError
from headrace.plant.file import PLANT_FILE, read_plant

__all__ = ["service"]

_SYSTEMD = """\
[Unit]
Description=headrace {name}
Wants=network-online.target
After=network-online.target

[Service]
User={user}
WorkingDirectory={folder}
Environment={environment}
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=5
RestartPreventExitStatus=2
TimeoutStopSec=150
UMask=0077
NoNewPrivileges=true

[Install]
WantedBy=multi-user.target
"""
_LAUNCHD = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key><string>headrace.{name}</string>
  <key>ProgramArguments</key><array>{arguments}</array>
  <key>WorkingDirectory</key><string>{folder}</string>
  <key>EnvironmentVariables</key><dict><key>HEADRACE_HOME</key><string>{home}</string></dict>
  <key>RunAtLoad</key><true/>
  <key>KeepAlive</key><dict><key>SuccessfulExit</key><false/></dict>
  <key>ExitTimeOut</key><integer>150</integer>
  <key>Umask</key><integer>63</integer>
  <key>StandardErrorPath</key><string>{home}/up.log</string>
</dict>
</plist>
"""


def service(kind: Literal["systemd", "launchd"] | None = None, /, *, plant: InputPath = Path(PLANT_FILE)) -> None:
    """Print the file with which systemd or launchd runs a plant.

    Parameters
    ----------
    kind
        systemd: write it to /etc/systemd/system/headrace.service. launchd: to ~/Library/LaunchAgents/headrace.plist. Without it, that
        of this system.
    plant
        The plant file.
    """
    found, _ = read_plant(plant)
    file, folder = plant.absolute(), plant.absolute().parent
    lasting = (folder / home() if not os.environ.get("HEADRACE_HOME") else home().absolute()).resolve()
    command = [_program(), "up", "--plant", str(file)]
    for one in (*command, str(lasting)):
        if not one.isprintable():
            raise PlanError(f"{one!r} contains a control character", where="path", fix="rename the folder")
    if (kind or ("launchd" if sys.platform == "darwin" else "systemd")) == "launchd":
        arguments = "".join(f"<string>{escape(one)}</string>" for one in command)
        print(_LAUNCHD.format(name=escape(found.name), arguments=arguments, folder=escape(str(folder)), home=escape(str(lasting))), end="")
        return
    quoted = " ".join(map(_quoted, command))
    environment = _quoted(f"HEADRACE_HOME={lasting}")
    name = found.name.replace("%", "%%")
    print(_SYSTEMD.format(name=name, user=getpass.getuser(), folder=str(folder).replace("%", "%%"), environment=environment, command=quoted), end="")


def _program() -> str:
    beside = Path(sys.executable).with_name("headrace")
    return str(beside) if beside.exists() else shutil.which("headrace") or "headrace"


def _quoted(text: str) -> str:
    """Return a word of a unit file, in which systemd expands nothing."""
    text = text.replace("%", "%%").replace("$", "$$") if "=" not in text else text.replace("%", "%%")
    return text if text and not set(text) & set(" \t\"'\\;") else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
