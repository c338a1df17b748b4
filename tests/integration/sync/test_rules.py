"""Every rule of docs/architecture.md, on the real sync."""

from __future__ import annotations

import pytest

from tests.integration.sync.scenarios import SCENES, Scene
from tests.integration.sync.stage import Stage
from tests.support import on_all_versions
from tests.support.servers import Database


@on_all_versions
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_rule(database: Database, scene: Scene) -> None:
    scene.play(Stage.set(database, scene.design))
