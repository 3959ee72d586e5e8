"""Bundles in a browser's page."""

from edgedistill.links.browser.chromium import program
from edgedistill.links.browser.link import browser, missing
from edgedistill.links.browser.packages import install, root

__all__ = ["browser", "install", "missing", "program", "root"]
