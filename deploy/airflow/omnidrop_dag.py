"""An Airflow DAG that submits a job to a Ray cluster every night and ends as the job ends.

The workers need omnidrop installed, a connection-free way to the cluster's dashboard, and RAY_AUTH_MODE and
RAY_AUTH_TOKEN in their environment. The run is named after the schedule's time and the try: a retry is a new run of the
same job, which resumes; the same try is never submitted twice. Ending the task in Airflow ends the watching only:
`omnidrop submit job.yaml --run-id NAME --stop` ends the run.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow import DAG
from airflow.providers.standard.operators.bash import BashOperator

with DAG(
    dag_id="omnidrop_nightly",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1),
    # One run at a time, and no run per missed night: one run does the work of all of them.
    max_active_runs=1,
    catchup=False,
) as dag:
    BashOperator(
        task_id="index",
        bash_command=(
            "exec omnidrop submit /opt/omnidrop/jobs/job.yaml --address http://ray-head:8265 "
            "--run-id airflow-{{ ts_nodash }}-{{ ti.try_number }}"
        ),
        retries=2,
        retry_delay=timedelta(minutes=10),
        # PATH and the token come from the worker's environment.
        append_env=True,
    )
