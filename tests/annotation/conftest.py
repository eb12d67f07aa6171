"""A server for the judge to ask, and an environment that holds no key and no proxy."""

from tests.annotation.judge_server import plain_environment as plain_environment
from tests.annotation.judge_server import server as server
