"""Make the bucket of an address such as s3://mlflow/prefix where it is missing; credentials are boto3's business."""

import os
import sys
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import ClientError

bucket = urlsplit(sys.argv[1]).netloc
store = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
try:
    store.head_bucket(Bucket=bucket)
except ClientError:
    store.create_bucket(Bucket=bucket)
