"""The one reader of the environment: where things are, and what must never leave the house."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from flows.secret_files import SecretFiles, named_files


class Settings(BaseSettings):
    """Settings of an installation; every field can be set as NODULEFLOW_<FIELD> or in a file named .env.

    A secret may stand in a file of its own, named by NODULEFLOW_<FIELD>_FILE.
    """

    model_config = SettingsConfigDict(env_prefix="NODULEFLOW_", env_file=".env", extra="ignore")

    workspace: Path = Field(
        Path("workspace"), description="folder that holds everything a site produces, or s3://bucket/prefix"
    )
    cache: Path | None = Field(None, description="folder of working copies of buckets; else the user's cache")
    config: Path | None = Field(None, description="TOML file of a whole run, which scheduled jobs read")
    secret: SecretStr | None = Field(None, description="key of the keyed digests; else a file in the workspace")
    prefect_api_url: str = Field("", description="a Prefect server; empty starts an embedded one")
    prefect_auth: SecretStr | None = Field(None, description="USER:PASSWORD of the Prefect server")
    prefect_database: SecretStr | None = Field(None, description="PostgreSQL of the Prefect server, for `backup`")
    mlflow_tracking_uri: str = Field("", description="an MLflow server; empty uses sqlite in the workspace")
    mlflow_user: str = Field("", description="user of the MLflow server (Basic)")
    mlflow_password: SecretStr | None = Field(None, description="password of that user")
    mlflow_database: SecretStr | None = Field(None, description="PostgreSQL of the MLflow server, for `backup`")
    public_bucket_url: str = Field("https://s3.amazonaws.com", description="S3 endpoint of public data for `fetch`")
    registry_lock_url: SecretStr | None = Field(
        None, description="PostgreSQL that machines sharing an MLflow server lock in; MLflow's own database is taken"
    )
    audit_key: SecretStr | None = Field(
        None, description="key that audit and versions are signed with; the same on machines that share MLflow"
    )
    policy: Path | None = Field(None, description="TOML file of the promotion policy; no other one can be given then")
    model_name: str = Field("noduleflow-nodule", description="name of the model in the MLflow registry")
    disclosure: Path | None = Field(None, description="the site's statements for model cards; else disclosure.toml")
    threads: int = Field(0, ge=0, description="threads of numerical libraries; 0 takes every core")
    workers: int = Field(0, ge=0, description="series that ingest and prepare work on at a time; 0 takes every core")
    runner: str = Field(
        "", description="where tasks run: threads, processes, dask, ray, or a cluster such as dask://host:8786"
    )
    batch: int | None = Field(None, ge=0, description="series or studies of one Prefect task; 0 is automatic")
    actor: str = Field("", description="who acts, as the audit names it; empty takes the system's user name")
    dicomweb_user: str = Field("", description="user of the DICOMweb server (Basic)")
    dicomweb_password: SecretStr | None = Field(None, description="password of that user")
    dicomweb_token: SecretStr | None = Field(None, description="token of the DICOMweb server (Bearer)")
    dicomweb_client_certificate: Path | None = Field(None, description="PEM file of our certificate for the server")
    dicomweb_client_key: Path | None = Field(None, description="PEM file of its key, where it is not in the same file")
    dicomweb_ca_bundle: Path | None = Field(None, description="PEM file of the authority that signed the server's")
    dicomweb_plain_http: bool = Field(False, description="credentials may travel unencrypted to another host")
    dicomweb_connections: int = Field(4, ge=1, le=32, description="requests at a time to the DICOMweb server")
    dicom_calling_aets: str = Field("", description="AE titles that may send to us, with commas; empty is everybody")
    dicom_calling_hosts: str = Field("", description="addresses or networks that may send to us; empty is everybody")
    dicom_check_called_aet: bool = Field(False, description="refuse a sender that calls another AE title than ours")
    dicom_max_associations: int = Field(10, ge=1, description="associations that the listener takes at a time")
    dicom_max_pdu_bytes: int = Field(131_072, ge=4096, description="largest PDU that the listener takes")
    exchange_timeout_s: float = Field(30.0, gt=0, description="how long a PACS may be silent, on either side")
    exchange_attempts: int = Field(5, ge=1, description="how often a request to a PACS is tried")
    notify_url: SecretStr | None = Field(None, description="webhook that hears of failed and crashed jobs")
    job_retry_s: float = Field(30.0, gt=0, description="pause before a scheduled job is tried again; it doubles")
    review_token: SecretStr | None = Field(None, description="token of `review --serve`; else a new one at every start")
    review_hosts: str = Field("", description="names under which browsers may call `review --serve`, with commas")
    review_certificate: Path | None = Field(None, description="PEM file of the review server's certificate")
    review_certificate_key: Path | None = Field(None, description="PEM file of its key")
    review_plain_http: bool = Field(False, description="`review --serve` may listen beyond loopback without TLS")
    second_read_share: float = Field(0.1, ge=0, le=1, description="of accepted findings, read blind a second time")
    settle_s: float = Field(
        60.0, ge=0, allow_inf_nan=False, description="a received study is ingested after so long without a new instance"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given in code, the environment, files of secrets, .env; the earlier one wins."""
        return init_settings, env_settings, SecretFiles(settings_cls, dotenv_settings), dotenv_settings

    _workspace_url: str = PrivateAttr("")

    @model_validator(mode="after")
    def _stands_for_its_bucket(self) -> Self:
        from flows.remote.address import checked_url, is_url, working_copy

        if is_url(self.workspace):
            self._workspace_url = checked_url(self.workspace)
            self.workspace = working_copy(self._workspace_url, self.cache)
        return self

    @property
    def workspace_url(self) -> str:
        """The bucket that `workspace` is the working copy of; "" for a workspace of its own."""
        return self._workspace_url

    @field_validator("workspace", mode="before")
    @classmethod
    def _names_a_workspace(cls, value: object) -> object:
        if isinstance(value, str) and not value.strip():
            raise ValueError("it is empty; unset it for ./workspace, or name a folder")
        from flows.remote.address import checked_url, is_url

        # a path would lose the slashes that show that no bucket is named
        if isinstance(value, str) and is_url(value):
            checked_url(value)
        return value

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def _names_an_mlflow(cls, text: str) -> str:
        known = ("http", "https", "sqlite", "postgres", "postgresql", "mysql", "mssql", "file")
        scheme, mark, _ = text.partition("://")
        if mark and scheme.lower().partition("+")[0] not in known:
            raise ValueError("not an address of MLflow; give http://HOST:PORT, or a database such as postgresql://...")
        return text

    @field_validator("prefect_api_url")
    @classmethod
    def _names_a_prefect(cls, text: str) -> str:
        parts = urlsplit(text)
        if text and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("not an address of a Prefect server; give http://HOST:PORT/api")
        if parts.password is not None or parts.username is not None:
            raise ValueError("no password in the address, which others see; set NODULEFLOW_PREFECT_AUTH")
        return text

    @field_validator("notify_url")
    @classmethod
    def _names_a_webhook(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and url.get_secret_value():
            parts = urlsplit(url.get_secret_value())
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("not an address of a webhook; give https://HOST/...")
        return url

    @field_validator("runner")
    @classmethod
    def _names_a_runner(cls, text: str) -> str:
        from flows.running.plan import runner_plan

        runner_plan(text)
        return text


def apply_environment(settings: Settings, *, debug: bool = False) -> None:
    """Set what Prefect and MLflow read from the environment; call before either is imported."""
    apply_to_work(settings, debug=debug)
    # A person waits: MLflow's own seven attempts take four minutes and a half. Scheduled runs keep them.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    if settings.prefect_api_url:
        os.environ["PREFECT_API_URL"] = settings.prefect_api_url
        if settings.prefect_auth is not None:
            os.environ["PREFECT_API_AUTH_STRING"] = settings.prefect_auth.get_secret_value()
    else:
        os.environ["PREFECT_HOME"] = str(settings.workspace.resolve() / "prefect")
        os.environ.pop("PREFECT_API_URL", None)
        os.environ.pop("PREFECT_PROFILE", None)


def apply_to_work(settings: Settings, *, debug: bool = False) -> None:
    """The part of it that a process needs which a Prefect worker has started, and told which server is its own.

    No telemetry leaves a hospital: MLflow honours only the literal `true` in DO_NOT_TRACK.
    """
    os.environ.update(
        {
            "DO_NOT_TRACK": "true",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "PREFECT_CLI_COLORS": "false",
            "GIT_PYTHON_REFRESH": "quiet",
            "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
            "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
        }
    )
    # Console lines of our own tell the story; Prefect and alembic add one line per state and migration.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO" if debug else "CRITICAL")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "INFO" if debug else "ERROR")
    if settings.threads:  # read by torch, numpy and OpenCV when they are loaded
        os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(settings.threads)
    if settings.mlflow_tracking_uri:
        os.environ["MLFLOW_TRACKING_URI"] = settings.mlflow_tracking_uri
    if settings.mlflow_password is not None:
        os.environ["MLFLOW_TRACKING_USERNAME"] = settings.mlflow_user
        os.environ["MLFLOW_TRACKING_PASSWORD"] = settings.mlflow_password.get_secret_value()


def series_workers() -> int:
    """How many series a flow works on at a time."""
    return Settings().workers or max(2, os.cpu_count() or 2)


def configured_secret() -> str | None:
    """The key of the keyed digests, where the installation sets one; never a parameter of a flow."""
    secret = Settings().secret
    return secret.get_secret_value() if secret is not None else None


def shared_registry_secrets() -> tuple[str | None, str]:
    """(key that audit and versions are signed with, PostgreSQL that machines lock in); asked for at every line."""
    names = ("AUDIT_KEY", "REGISTRY_LOCK_URL")
    environment = (*(os.environ.get(f"NODULEFLOW_{name}") for name in names), *named_files(names))
    dotenv = Path(".env")
    return _registry_secrets(environment, str(dotenv.resolve()), dotenv.stat().st_mtime_ns if dotenv.exists() else 0)


@lru_cache(maxsize=16)
def _registry_secrets(environment: tuple[str | None, ...], dotenv: str, changed_ns: int) -> tuple[str | None, str]:
    settings = Settings()
    key, url = settings.audit_key, settings.registry_lock_url
    return (key.get_secret_value() if key is not None else None), (url.get_secret_value() if url is not None else "")


def actor_name(settings: Settings) -> str:
    """The name that the audit writes: the setting, or the user of the system; what cannot be shown is replaced."""
    import getpass

    from data_contracts.spelling import shown

    if settings.actor:
        return shown(settings.actor)
    try:
        return shown(getpass.getuser())
    except (OSError, KeyError):
        return "unknown"
