"""The deployment architecture as code: declared in environments/architecture, checked, priced and observed.

model.py        what is declared, as one frozen model; its parts: network, edge, kubernetes, data, operations
names.py        what everything is called
facts.py        what Azure offers and what it retires, with sources
check/          rules across resources -> findings, an area each
chart.py        what the Helm chart must fit to
cost.py         monthly low and high, what-if, budgets
retail.py       new prices from the Azure Retail Prices API
alerts.py       alert rules and dashboards, by code
audit.py        who did what, as a query over the audit logs
access.py       who may use what of the vault and of Blob Storage
grants.py       what a promoter may do in a cluster, beyond Azure's roles
compliance.py   each promise with its evidence; computed from what is rendered: privileges.py transit.py
resources.py    what is rendered for Azure, as far as evidence is in it
topology.py     the picture (SVG)

From it ci/azure renders ARM templates and brings them about.
"""
