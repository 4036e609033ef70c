"""Drives: mount, list, unmount."""

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import json_response, utf8
from sandkeeper.api.edge.rights import DRIVES, OWN_DRIVES, USER, Right, standing_of
from sandkeeper.api.edge.routing import empty_head, path_route, route
from sandkeeper.api.edge.subject import caller
from sandkeeper.api.edge.urls import raw_rest
from sandkeeper.api.schemas.drives import (
    DriveListResponse,
    DriveMountInfo,
    DriveMountRequest,
    DriveMountResponse,
    DriveUnmountResponse,
)
from sandkeeper.drives.rules import Drive, Reach
from sandkeeper.drives.service import Drives, MountedDrive
from sandkeeper.errors import BadInput, Forbidden
from sandkeeper.files.paths import resolve_tree
from sandkeeper.log.access import Access

__all__ = ["DriveHandlers", "routes"]

MOUNT = "/drives/mount"


class DriveHandlers:
    """Handlers over the drives."""

    def __init__(self, *, drives: Drives, access: Access, body_limit: int, apart: bool) -> None:
        self._drives = drives
        self._access = access
        self._body_limit = body_limit
        self._apart = apart

    async def mount(self, request: Request) -> Response:
        """Mount a drive."""
        try:
            body = await read_json(request, DriveMountRequest, self._body_limit)
        except BadInput as error:
            raise BadInput("I" + str(error).removeprefix("i")) from None
        if not body.drive_name or not body.mount_path:
            missing = "mountPath" if body.drive_name else "driveName"
            raise BadInput(f"Invalid request body: {missing} is required")
        self._access.audit(
            "drive_mount", caller(request), drive=body.drive_name, mount_path=body.mount_path
        )
        wanted = Drive(
            body.drive_name,
            body.mount_path,
            body.drive_path,
            body.read_only,
            body.uid_map,
            body.gid_map,
            body.driver,
        )
        with self._reach(request) as reach:
            drive = await self._drives.mount(wanted, reach)
        return json_response(
            DriveMountResponse(
                success=True,
                message="Drive mounted successfully",
                drive_name=drive.name,
                mount_path=utf8(drive.mount_path),
                drive_path=utf8(drive.drive_path),
                read_only=drive.read_only,
                uid_map=drive.uid_map,
                gid_map=drive.gid_map,
            )
        )

    async def list(self, _request: Request) -> Response:
        """List the mounted drives."""
        return json_response(
            DriveListResponse([_info(mounted) for mounted in await self._drives.list()])
        )

    async def unmount(self, request: Request) -> Response:
        """Unmount the drive whose path follows."""
        path = _named(request)
        self._access.audit("drive_unmount", caller(request), mount_path=path)
        with self._reach(request) as reach:
            done = await self._drives.unmount(path, reach)
        return json_response(DriveUnmountResponse(True, "Drive unmounted successfully", utf8(done)))

    @contextmanager
    def _reach(self, request: Request) -> Iterator[Reach]:
        """Give how far a request goes, and add to a refusal what would permit it.

        What can be permitted to everybody is the drives, not the places that belong to others.
        """
        standing = standing_of(request)
        if not self._apart:  # then no drive is the user's own
            standing.check(DRIVES)
        permitted = Reach.DRIVES if standing.may(DRIVES) else Reach.OWN
        try:
            yield Reach.ALL if standing.right is Right.OPERATOR else permitted
        except Forbidden as error:
            reason = f"{error.reason}: {standing.advice(DRIVES)}"
            raise Forbidden(reason, task=error.task, about=error.about) from None


def _named(request: Request) -> str:
    """Return the path behind the prefix, decoded once, `..` kept for the rules to refuse."""
    return resolve_tree(raw_rest(request.scope, MOUNT)).display


def _info(mounted: MountedDrive) -> DriveMountInfo:
    drive = mounted.drive
    return DriveMountInfo(
        drive_name=utf8(drive.name),
        mount_path=utf8(drive.mount_path),
        drive_path=utf8(drive.drive_path),
        read_only=drive.read_only,
        uid_map=drive.uid_map,
        gid_map=drive.gid_map,
        driver=drive.driver or "blfs",
        status=mounted.status,
        restarts=mounted.restarts,
    )


def routes(handlers: DriveHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    return [
        route(MOUNT, handlers.list, need=USER),
        route(MOUNT, empty_head, "HEAD", need=USER),
        route(MOUNT, handlers.mount, "POST", need=OWN_DRIVES),
        path_route(MOUNT, handlers.unmount, "DELETE", need=OWN_DRIVES),
    ]
