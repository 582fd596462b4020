"""Report sections, finding labellers for X-ray and CT reports, report templates, EHR context."""
