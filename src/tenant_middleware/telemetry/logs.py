"""Log records that say whose request they belong to."""

from __future__ import annotations

import logging

from tenant_middleware.context import peek_tenant

NOBODY = "-"


class TenantLogFilter(logging.Filter):
    """Gives each record `tenant_id`, `-` outside a scope: put it on a handler, and `%(tenant_id)s` into its format.

    It adds an id and nothing else: what a message may hold is up to whoever logs it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        tenant = peek_tenant()
        record.tenant_id = tenant.id if tenant is not None else NOBODY
        return True
