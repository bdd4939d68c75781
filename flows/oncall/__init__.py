"""What the person on call asks at night: what ran, what is stuck, what waits, and whether the installation is sound.

findings      one sentence a fault, with its mend          prefect_view   flow runs and schedules, only read
judging       which of them do not go on by themselves     registry_view  MLflow's few rows, without its import
holdings      tables and folders of the workspace          waiting        what a person must do
disk          room and size                                checks_*       the doctor's questions
"""
