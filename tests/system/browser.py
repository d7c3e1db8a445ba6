"""A real Chromium without a window, driven by its own debugging protocol: no driver to install, and no library."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from tests.servers.programs import program

AXE = Path(__file__).parents[2] / ".servers/axe.min.js"
_FLAGS = (
    "--headless",
    "--no-sandbox",  # tests run as root
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--mute-audio",
    "--remote-debugging-port=0",
)


class Page:
    """One tab. `errors` has what its console and its scripts complained of."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future] = {}
        self.errors: list[str] = []
        self._task = asyncio.create_task(self._listen())

    async def send(self, method: str, **parameters: object) -> dict:
        """One command of the protocol and its answer."""
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        answer = await asyncio.wait_for(future, 30)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    async def _listen(self) -> None:
        async for message in self._socket:
            data = json.loads(message.data)
            if "id" in data:
                self._waiting.pop(data["id"]).set_result(data)
            else:
                self._note(data["method"], data["params"])

    def _note(self, event: str, about: dict) -> None:
        if event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(about["exceptionDetails"].get("exception", about["exceptionDetails"])))
        elif event == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(each.get("value")) for each in about["args"]))
        elif event == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")

    async def begin(self) -> None:
        """Listen to what it complains of."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")
        await self.size(1360, 860)

    async def size(self, width: int, height: int) -> None:
        """The window's inside."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    async def colours(self, scheme: str) -> None:
        """What the system likes: dark or light."""
        await self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def goto(self, url: str) -> None:
        """Load an address; an address of the same document is only gone to."""
        await self.send("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> object:
        """The value of a JavaScript expression, awaited."""
        found = await self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in found, (expression[:200], found["exceptionDetails"])
        return found["result"].get("value")

    async def until(self, expression: str, wait: float = 20.0) -> object:
        """The value of an expression once it is true."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait
        while not (value := await self.evaluate(expression)):
            assert loop.time() < end, f"never: {expression}; the page: {await self.text()}; {self.errors}"
            await asyncio.sleep(0.05)
        return value

    async def text(self) -> str:
        """What a person reads on it."""
        return str(await self.evaluate("document.body.innerText"))

    async def press(self, *keys: str) -> None:
        """Keys, one after the other."""
        for key in keys:
            text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            code = {"Enter": 13, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}.get(key)
            more = {"windowsVirtualKeyCode": code} if code else {}
            await self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **more)
            await self.send("Input.dispatchKeyEvent", type="keyUp", key=key, **more)

    async def type(self, selector: str, text: str) -> None:
        """Write into a field as a person does."""
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.send("Input.insertText", text=text)

    async def screenshot(self, path: Path) -> None:
        """A picture of what is seen."""
        path.parent.mkdir(parents=True, exist_ok=True)
        data = await self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(data["data"]))

    async def faults(self, *rules: str) -> list[str]:
        """What axe-core finds to be a serious or critical hindrance, with the elements; by these rules alone, or by all."""
        if not await self.evaluate("typeof axe === 'object'"):
            await self.evaluate(AXE.read_text(encoding="utf-8") + "\n;1")
        options = {"resultTypes": ["violations"]} | ({"runOnly": list(rules)} if rules else {})
        found = json.loads(
            str(
                await self.evaluate(f"axe.run(document, {json.dumps(options)}).then(r => JSON.stringify(r.violations))")
            )
        )
        return [
            f"{each['id']}: {each['help']}: {[node['html'][:160] for node in each['nodes'][:3]]}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._socket.close()


@asynccontextmanager
async def chromium():
    """A Page in a browser of its own, with a profile that is gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="chromium-"))
    process = await asyncio.create_subprocess_exec(
        program("chromium-headless-shell"),
        *_FLAGS,
        f"--user-data-dir={directory}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "HOME": str(directory)},
        start_new_session=True,  # a group of its own, to be ended as a whole
    )
    try:
        async with aiohttp.ClientSession() as http:
            port = await _port(directory, process)
            async with http.get(f"http://127.0.0.1:{port}/json/list") as answer:
                target = next(each for each in await answer.json() if each["type"] == "page")
            async with http.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0, heartbeat=None) as socket:
                page = Page(socket)
                await page.begin()
                yield page
                await page.close()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # Debian's program is a script that starts the browser
        await process.wait()
        await _removed(directory)


async def _removed(directory: Path) -> None:
    """Until the profile is gone: who is being killed may still write a file."""
    for _ in range(100):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"chromium still writes into {directory}")


async def _port(directory: Path, process: asyncio.subprocess.Process) -> int:
    """Where it listens, as it says itself."""
    said = directory / "DevToolsActivePort"
    for _ in range(400):
        assert process.returncode is None, f"chromium ended with {process.returncode}"
        if said.exists() and (lines := said.read_text().split()):
            return int(lines[0])
        await asyncio.sleep(0.05)
    raise AssertionError("chromium does not say where it listens")
