"""What sandboxes can be made of: warm pools, which E2B calls templates, and how large they are."""

from sandkeeper.fleet.objects import SandboxTemplate, Size, WarmPool, size_of

__all__ = ["Pools"]


class Pools:
    """The warm pools by name, and the sizes of what they are made of; event loop's thread only."""

    def __init__(self) -> None:
        self._template_of: dict[str, str] = {}
        self._sizes: dict[str, Size] = {}
        self._listing_pools: dict[str, str] = {}
        self._listing_sizes: dict[str, Size] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._template_of

    def size(self, name: str) -> Size:
        """Return how large the sandboxes of a pool are, as far as it says."""
        return self._sizes.get(self._template_of.get(name, ""), Size())

    def begin(self) -> None:
        """Expect a list of pools from its beginning, whatever became of the one before."""
        self._listing_pools = {}

    def replace(self, pools: list[WarmPool] | None) -> None:
        """Take a piece of a list of pools; None is its end."""
        if pools is None:
            self._template_of, self._listing_pools = self._listing_pools, {}
            return
        for pool in pools:
            self._listing_pools[pool.metadata.name] = pool.spec.sandbox_template_ref.name

    def change(self, pool: WarmPool) -> None:
        """Take a pool as it is now."""
        self._template_of[pool.metadata.name] = pool.spec.sandbox_template_ref.name

    def remove(self, pool: WarmPool) -> None:
        """Take the end of a pool."""
        self._template_of.pop(pool.metadata.name, None)

    def begin_templates(self) -> None:
        """Expect a list of templates from its beginning."""
        self._listing_sizes = {}

    def replace_templates(self, templates: list[SandboxTemplate] | None) -> None:
        """Take a piece of a list of templates; None is its end."""
        if templates is None:
            self._sizes, self._listing_sizes = self._listing_sizes, {}
            return
        for template in templates:
            self._listing_sizes[template.metadata.name] = size_of(template)

    def change_template(self, template: SandboxTemplate) -> None:
        """Take a template as it is now."""
        self._sizes[template.metadata.name] = size_of(template)

    def remove_template(self, template: SandboxTemplate) -> None:
        """Take the end of a template."""
        self._sizes.pop(template.metadata.name, None)
