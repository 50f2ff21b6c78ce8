"""What a browser sees: it finds `*.localhost` by itself, and server-sent events reach it one by one."""

import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
async def test_events_reach_a_page_one_by_one(platform, http, deploy, tmp_path) -> None:
    """Each event is sent when the page has told that it heard the one before, so nothing may hold any back."""
    url, headers = await deploy("stream")
    address = f"http://{headers['Host']}:{platform.running['ingress'].rpartition(':')[2]}/page"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--no-first-run"]
    browser = subprocess.Popen([str(CHROMIUM), *options, address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        async def heard() -> bool:
            async with http.get(url + "heard", headers=headers) as response:
                return await response.text() == "1 2 3 4"

        await platform.eventually(heard, 40, "hearing of all four events")
    finally:
        browser.terminate()
        browser.wait(10)
