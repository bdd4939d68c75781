"""A message to a webhook for each job that failed or crashed, sent by the Prefect server itself."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flows.settings import Settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

FAILURES = "noduleflow-failures"
_TROUBLE = ("Failed", "Crashed")


def tell_of_failures(client: SyncPrefectClient, settings: Settings) -> list[str]:
    """Make the automation anew for the webhook of the settings, or take it off where none is set; its name, if made."""
    for found in client.read_automations_by_name(FAILURES):
        client.delete_automation(found.id)
    if not settings.notify_url:
        return []
    client.create_automation(_failure_automation(client, settings.notify_url.get_secret_value()))
    return [FAILURES]


def _failure_automation(client: SyncPrefectClient, url: str) -> Any:
    """A message to a webhook for each job that failed or crashed; e-mail and chat addresses are webhooks of Apprise."""
    from prefect.automations import AutomationCore, EventTrigger, Posture, SendNotification

    return AutomationCore(
        name=FAILURES,
        description="Tells of jobs that failed or crashed.",
        trigger=EventTrigger(
            posture=Posture.Reactive,
            expect={f"prefect.flow-run.{name}" for name in _TROUBLE},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            match_related={"prefect.resource.role": ["tag"], "prefect.resource.id": ["prefect.tag.noduleflow"]},
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            SendNotification(
                block_document_id=_webhook(client, url),
                subject="noduleflow: {{ flow.name }} {{ flow_run.state.name }}",
                body="{{ flow_run.state.message }}",
            )
        ],
    )


def _webhook(client: SyncPrefectClient, url: str) -> Any:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    block = CustomWebhookNotificationBlock(
        name="noduleflow", url=url, method="POST", json_data={"text": "{{subject}}: {{body}}"}
    )
    return block.save("noduleflow-notify", overwrite=True, client=client)
