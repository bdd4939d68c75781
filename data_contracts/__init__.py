"""What things are: records, tables and errors that every other room agrees on.

errors      the error tree                     records     base of every JSON record, atomic files, digests
reasons     why an input was refused           tables      validated Parquet tables
volume      CTVolume: HU + geometry            series      SeriesRecord, QualityFinding, Rejection
nodules     NoduleTable                        manifest    Manifest, Split
patches     PatchTable, DatasetCard            features    FeatureTable, FeatureCard
predictions PredictionTable                    evaluation  EvaluationReport
model_card  ModelCard, InputSpec               promotion   PromotionPolicy, PromotionDecision, AuditRecord
review      Finding, StudyReview               feedback    ReaderFeedback: the answers to it
params      one frozen parameter class a step
guidelines  what they are asked and answer     guideline_tables  RuleTable, BrockTable
"""
