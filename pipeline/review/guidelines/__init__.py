"""What guidelines say about the nodules of a study: rules as tables, missing inputs refused by name.

tables/      the tables (TOML), to be laid beside the papers    tables    reads and checks them
matching     which rows hold, which could                       sizes     rounding, error bars of sizes
growth       change, volume doubling time with its interval     brock     probability by the PanCan models
lung_rads    Lung-RADS v2022 of a nodule; beside it             fleischner, bts   the other two guidelines
             its _facts, _steps, _hints and the _study          most_suspicious   a study from its nodules
study        assess_study: everything about a study
"""
